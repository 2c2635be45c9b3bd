"""Tier plugin: the record, and whether the object is what the record says."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import subprocess
import sys
from typing import Any

from ode_core import registry
from ode_core.testing.cases import distance, turning
from ode_core.testing.results import attempted, check, demand
from ode_core.testing.snapshot import attributes
from ode_core.testing.subject import Subject, registered

_CLAIMS = ("order", "adaptive", "implicit", "per_sample", "differentiable")
_DEFAULTS = {"per_sample": False, "differentiable": None}
_IMPORTS = """
import importlib, importlib.util, sys
target = sys.argv[1]
if target.endswith(".py"):
    spec = importlib.util.spec_from_file_location("guest", target)
    module = importlib.util.module_from_spec(spec)
    sys.modules["guest"] = module
    spec.loader.exec_module(module)
else:
    importlib.import_module(target)
sys.exit(3 if "torch" in sys.modules else 0)
"""


@check("plugin.resolves")
def resolves(subject: Subject) -> str | None:
    """A solver with every member of the protocol comes of the record's target."""
    where = "the object" if subject.record is None else f"the record's {subject.record.target}"
    demand(
        not subject.cause,
        f"{where} gives no solver that could be checked ({subject.cause}); see "
        "ode_core.protocols.Solver for what one has",
    )
    return None


@check("plugin.name", registered)
def name(subject: Subject) -> str | None:
    """The object calls itself by its registered name, which messages then use."""
    record = subject.record
    assert record is not None
    own = subject.solver.name
    demand(
        own == record.name,
        f"the object calls itself {own!r} and its record {record.name!r}; messages use the "
        "object's, so give it the registered name",
    )
    return None


@check("plugin.claims", registered)
def claims(subject: Subject) -> str | None:
    """What the record says of the solver is what the object says of itself."""
    apart = []
    for claim in _CLAIMS:
        said = getattr(subject.record, claim)
        own = getattr(subject.solver, claim, _DEFAULTS.get(claim))
        if own is not None and own != said:
            apart.append(f"{claim}={said!r} in the record but {own!r} on the object")
    demand(
        not apart,
        f"{', '.join(apart)}: people choose by the record and the loop works by the object; "
        "make the two agree",
    )
    return None


def packaged(subject: Subject) -> str:
    """Need: a plugin registers the solver."""
    return "" if subject.record and _plugin_module(subject) else "no plugin registers it"


@check("plugin.light_import", packaged)
def light_import(subject: Subject) -> str | None:
    """Importing the plugin's module does not import torch, so that listing stays quick."""
    target = _plugin_module(subject)
    status, error = _import_alone(target)
    demand(
        status in (0, 3),
        f"the plugin {target} cannot be imported in a fresh process: {error}",
    )
    demand(
        status == 0,
        f"importing the plugin {target} imports torch, which makes every `ode list` wait for it; "
        "leave the plugin's module to records and import torch behind their targets",
    )
    return None


def _plugin_module(subject: Subject) -> str:
    assert subject.record is not None
    package = subject.record.package
    return next((p.target for p in registry.REGISTRY.plugins if p.package == package), "")


@functools.cache
def _import_alone(target: str) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS, target],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


@check("plugin.frozen")
def frozen(subject: Subject) -> str | None:
    """A solve leaves the object as it was: what changes from step to step travels in the carry."""
    case = turning(pair=subject.pair)
    # Whatever is computed once and kept is there after the first solve.
    subject.solve(case.f, case.y0, [0.0, case.t1])
    before = attributes(subject.solver)
    subject.solve(case.f, case.y0, [0.5, 1.0])
    after = attributes(subject.solver)
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    demand(
        not changed,
        f"a solve changed {', '.join(sorted(changed))} on the solver, which serves many solves at "
        "once; keep it in the carry",
    )
    return None


@check("plugin.pickles")
def pickles(subject: Subject) -> str | None:
    """A pickled copy, as sent to a worker process, solves to the same bits."""
    return _copied(subject, "pickled", lambda solver: pickle.loads(pickle.dumps(solver)))


@check("plugin.deep_copies")
def deep_copies(subject: Subject) -> str | None:
    """A deep copy, as made with the model that holds it, solves to the same bits."""
    return _copied(subject, "deep-copied", copy.deepcopy)


def _copied(subject: Subject, how: str, copied: Any) -> str | None:
    other, cause = attempted(lambda: copied(subject.solver))
    demand(
        not cause,
        f"the solver cannot be {how} ({cause}); make it a frozen dataclass of plain data, and "
        "functions at a module's top",
    )
    case = turning(pair=subject.pair)
    own = subject.solve(case.f, case.y0, [0.0, case.t1]).ys
    difference = distance(own, Subject(subject.name, None, other).solve(
        case.f, case.y0, [0.0, case.t1]).ys)  # fmt: skip
    demand(
        difference == 0.0,
        f"the {how} solver's result differs by {difference:.1e}; it is to be the same to the bit, "
        "so keep nothing outside the object that steers it",
    )
    return None


CHECKS = (resolves, name, claims, light_import, frozen, pickles, deep_copies)
