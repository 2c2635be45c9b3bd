"""Other libraries' interfaces on this suite's solvers."""
