"""Solve, and train through, ordinary differential equations with PyTorch.

Names are imported when they are first used, so that listing plugins never waits for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ode_core.api import solve
    from ode_core.citation import Reference
    from ode_core.compiled import Compile
    from ode_core.control import FixedSteps, PIDController
    from ode_core.convergence import Convergence, check_convergence
    from ode_core.direct import Direct
    from ode_core.errors import (
        ArgumentError,
        CompatibilityWarning,
        DataError,
        DownloadWarning,
        GradientWarning,
        GraphWarning,
        OdeError,
        OdeWarning,
        PluginError,
        PluginWarning,
        PrecisionWarning,
        SolveError,
        UnknownNameError,
        UnsupportedError,
    )
    from ode_core.events import Event, Occurrence
    from ode_core.hooks import PLUGIN_API, hookimpl
    from ode_core.inputs import Control
    from ode_core.loops.graphs import Graph
    from ode_core.protocols import GradientMethod, Plan, Progress, RunConfig, Solver, Step, Task
    from ode_core.records import (
        CommandRecord,
        DiagnosticRecord,
        ExecutorRecord,
        GradientRecord,
        ModelRecord,
        SolverRecord,
        TaskRecord,
    )
    from ode_core.registry import (
        executors,
        gradients,
        models,
        register,
        solvers,
        tasks,
    )
    from ode_core.solution import Compiled, Solution, State, Stats, Status
    from ode_core.steady import SteadyState, steady_state
    from ode_core.tolerance import Tolerance
    from ode_core.verify import Verified

_EXPORTS = {
    "solve": "api",
    "Compile": "compiled",
    "FixedSteps": "control",
    "PIDController": "control",
    "Convergence": "convergence",
    "check_convergence": "convergence",
    "Direct": "direct",
    "ArgumentError": "errors",
    "CompatibilityWarning": "errors",
    "DataError": "errors",
    "DownloadWarning": "errors",
    "GradientWarning": "errors",
    "Graph": "loops.graphs",
    "GraphWarning": "errors",
    "OdeError": "errors",
    "OdeWarning": "errors",
    "PluginError": "errors",
    "PluginWarning": "errors",
    "PrecisionWarning": "errors",
    "SolveError": "errors",
    "UnknownNameError": "errors",
    "UnsupportedError": "errors",
    "Event": "events",
    "Occurrence": "events",
    "PLUGIN_API": "hooks",
    "hookimpl": "hooks",
    "Control": "inputs",
    "GradientMethod": "protocols",
    "Plan": "protocols",
    "Progress": "protocols",
    "RunConfig": "protocols",
    "Solver": "protocols",
    "Step": "protocols",
    "Task": "protocols",
    "CommandRecord": "records",
    "DiagnosticRecord": "records",
    "ExecutorRecord": "records",
    "GradientRecord": "records",
    "ModelRecord": "records",
    "SolverRecord": "records",
    "TaskRecord": "records",
    "Reference": "citation",
    "executors": "registry",
    "gradients": "registry",
    "models": "registry",
    "register": "registry",
    "solvers": "registry",
    "tasks": "registry",
    "Compiled": "solution",
    "Solution": "solution",
    "State": "solution",
    "Stats": "solution",
    "Status": "solution",
    "SteadyState": "steady",
    "steady_state": "steady",
    "Tolerance": "tolerance",
    "Verified": "verify",
}

__all__ = [
    "PLUGIN_API",
    "ArgumentError",
    "CommandRecord",
    "CompatibilityWarning",
    "Compile",
    "Compiled",
    "Control",
    "Convergence",
    "DataError",
    "DiagnosticRecord",
    "Direct",
    "DownloadWarning",
    "Event",
    "ExecutorRecord",
    "FixedSteps",
    "GradientMethod",
    "GradientRecord",
    "GradientWarning",
    "Graph",
    "GraphWarning",
    "ModelRecord",
    "Occurrence",
    "OdeError",
    "OdeWarning",
    "PIDController",
    "Plan",
    "PluginError",
    "PluginWarning",
    "PrecisionWarning",
    "Progress",
    "Reference",
    "RunConfig",
    "Solution",
    "SolveError",
    "Solver",
    "SolverRecord",
    "State",
    "Stats",
    "Status",
    "SteadyState",
    "Step",
    "Task",
    "TaskRecord",
    "Tolerance",
    "UnknownNameError",
    "UnsupportedError",
    "Verified",
    "check_convergence",
    "executors",
    "gradients",
    "hookimpl",
    "models",
    "register",
    "solve",
    "solvers",
    "steady_state",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
