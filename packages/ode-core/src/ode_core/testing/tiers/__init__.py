"""The checks, a file for each part of a tier."""
