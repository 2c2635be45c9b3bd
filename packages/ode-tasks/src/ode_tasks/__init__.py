"""Experiments, benchmark and report of the ODE suite."""
