"""Gradient methods, one file each."""
