"""Catalogues: the read-only mappings from names to records, and from records to objects."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ode_core.containment import Conduct, contained
from ode_core.discovery import SUITE, describe
from ode_core.errors import ArgumentError, PluginError, PluginWarning, UnknownNameError
from ode_core.loading import BLOCKED
from ode_core.records import Record

if TYPE_CHECKING:
    from ode_core.registry import Registry

R = TypeVar("R", bound=Record)

_SUGGESTED = {
    "solver": "ode-solvers",
    "gradient": "ode-solvers",
    "model": "ode-models",
    "task": "ode-tasks",
    "executor": "ode-tasks",
}


class Catalogue(Mapping[str, R], Generic[R]):
    """A read-only mapping from registered names to records of one kind."""

    def __init__(self, registry: Registry, record_type: type[R]) -> None:
        self._registry = registry
        self._type = record_type
        self._shared: dict[str, tuple[R, Any]] = {}

    @property
    def kind(self) -> str:
        """What the records are: solver, gradient, model, task, executor or command."""
        return self._type.kind

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry.table(self.kind))

    def __len__(self) -> int:
        return len(self._registry.table(self.kind))

    def __getitem__(self, name: str) -> R:
        record = self._registry.table(self.kind).get(name)
        if record is None and ":" in name:
            package, _, short = name.partition(":")
            record = self._registry.qualified(self.kind, package, short)
        if record is None:
            raise self._unknown(name)
        return cast("R", record)

    def create(self, name: str, **options: Any) -> Any:
        """Import the record's target and call it with the options.

        Raises UnknownNameError for a name nobody registers, PluginError where the target or one of
        its requirements cannot be imported, ArgumentError for an option it does not take.
        """
        record = self[name]
        target = load_target(record)
        try:
            inspect.signature(target).bind(**options)
        except TypeError as error:
            accepted = ", ".join(inspect.signature(target).parameters) or "no options"
            raise ArgumentError(
                f"the {self.kind} {name!r} cannot be made with {sorted(options)}: {error}; "
                f"it takes {accepted}"
            ) from None
        except ValueError:  # a callable written in C has no signature to ask
            pass
        return target(**options)

    def shared(self, name: str) -> Any:
        """Return what `create(name)` makes, the same object as long as the record is the same.

        For solvers and gradient methods, which never change after construction. Raises what
        `create` raises.
        """
        record = self[name]
        known = self._shared.get(name)
        if known is None or known[0] is not record:
            known = self._shared[name] = (record, self.create(name))
        return known[1]

    def _unknown(self, name: str) -> UnknownNameError:
        contested = [n for n in self if n.endswith(f":{name}")]
        if contested:
            return UnknownNameError(
                f"several packages register the {self.kind} {name!r}; say which: "
                + " or ".join(contested),
                name,
                contested,
            )
        nearest = difflib.get_close_matches(str(name), list(self), n=3, cutoff=0.5)
        parts = [f"no {self.kind} is named {name!r}"]
        if nearest:
            parts.append("did you mean " + " or ".join(repr(n) for n in nearest))
        parts += [plugin.sentence for plugin in self._registry.plugins if plugin.lost]
        away = [plugin.package for plugin in self._registry.plugins if plugin.status == BLOCKED]
        if away:
            parts.append(f"plugins kept away: {', '.join(away)}, see ode list plugins")
        suggested = _SUGGESTED.get(self.kind)
        if suggested and all(p.package != suggested for p in self._registry.plugins):
            parts.append(f"the suite's own come with: pip install {suggested}")
        elif len(self):
            parts.append("installed: " + ", ".join(self))
        return UnknownNameError("; ".join(parts), name, nearest)


def load_target(record: Record) -> Any:
    """Import what a record points at.

    Raises PluginError with the pip command where it needs a package that is not installed, and with
    the cause where it cannot be imported.
    A stranger's module is contained: what it prints goes to stderr, what it changes of the process
    is put back and named in a PluginWarning.
    """
    if record.missing:
        raise PluginError(
            f"the {record.kind} {record.name!r} needs a package that is not installed: "
            f"pip install {' '.join(repr(pip) for pip in record.missing)}",
            record.package,
        )
    module, _, path = record.target.partition(":")
    guest = record.package not in SUITE and module not in sys.modules
    with contained() if guest else contextlib.nullcontext(Conduct()) as conduct:
        found = _imported(record, module, path, conduct)
    if conduct.changed:
        warnings.warn(
            f"importing {module} of {record.package} {record.version} changed "
            f"{' and '.join(conduct.changed)}, which was put back; set what it needs yourself",
            PluginWarning,
            stacklevel=3,
        )
    return found


def _imported(record: Record, module: str, path: str, conduct: Conduct) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and (
            record.package in SUITE or conduct.interrupted
        ):
            raise
        raise PluginError(
            f"the {record.kind} {record.name!r} of {record.package} could not be imported from "
            f"{record.target} ({describe(error)})",
            record.package,
        ) from error
    return found
