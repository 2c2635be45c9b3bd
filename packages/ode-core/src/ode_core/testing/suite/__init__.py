"""The conformance kit as a test suite: pytest --pyargs ode_core.testing.suite --ode-solver NAME."""
