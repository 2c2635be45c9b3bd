"""What a GPU shows: correctness, speed and memory, by one command: python -m ode_solvers.gpu."""
