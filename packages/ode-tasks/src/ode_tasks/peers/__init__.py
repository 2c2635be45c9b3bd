"""The suite beside other solvers of differential equations, on the same work."""
