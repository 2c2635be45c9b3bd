"""Coefficients, one family a file, each with its source."""
