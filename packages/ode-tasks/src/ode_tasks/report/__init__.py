"""Tables, plots and a page of stored results, and the `report` command."""

from ode_tasks.report.writer import write

__all__ = ["write"]
