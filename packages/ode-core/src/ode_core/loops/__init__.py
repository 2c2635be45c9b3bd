"""The step loop and its consumers."""
