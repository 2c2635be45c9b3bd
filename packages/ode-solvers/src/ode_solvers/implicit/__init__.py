"""Implicit Runge-Kutta methods."""
