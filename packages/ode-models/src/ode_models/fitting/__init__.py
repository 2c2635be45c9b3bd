"""Least squares on known equations with unknown parameters, by multiple shooting."""
