"""Names and who gave them: the catalogues that `solve`, the command line and the benchmark read."""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

from ode_core import discovery
from ode_core.discovery import SUITE, Plugin
from ode_core.errors import ArgumentError, PluginError, UnknownNameError
from ode_core.records import (
    RECORD_TYPES,
    CommandRecord,
    ExecutorRecord,
    GradientRecord,
    ModelRecord,
    Record,
    SolverRecord,
    TaskRecord,
)

R = TypeVar("R", bound=Record)

HERE = "registered here"
_SUGGESTED = {
    "solver": "ode-solvers",
    "gradient": "ode-solvers",
    "model": "ode-models",
    "task": "ode-tasks",
    "executor": "ode-tasks",
}


class PluginWarning(UserWarning):
    """A plugin was lost, or a name that it wants is taken."""


class Registry:
    """Every record of every plugin, loaded at the first question and kept."""

    def __init__(self) -> None:
        self._plugins: tuple[Plugin, ...] | None = None
        self._added: list[Record] = []
        self._tables: dict[str, dict[str, Record]] = {}

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """What became of every plugin, the suite's own first."""
        if self._plugins is None:
            self._plugins = tuple(discovery.load(source) for source in discovery.find())
            for plugin in self._plugins:
                if plugin.status in ("failed", "partial"):
                    warnings.warn(lost(plugin), PluginWarning, stacklevel=3)
        return self._plugins

    def refresh(self) -> None:
        """Forget what was found, so that a package installed since is seen."""
        self._plugins = None
        self._tables = {}

    def add(self, record: Record, *, overwrite: bool = False) -> None:
        """Register a record from a running program; raises ArgumentError for a taken name."""
        table = self.table(record.kind)
        taken = table.get(record.name)
        if taken is not None and not (overwrite and taken.package == HERE):
            raise ArgumentError(
                f"the {record.kind} {record.name!r} is already registered by {taken.package}; "
                + (
                    "pass overwrite=True to replace it"
                    if taken.package == HERE
                    else "choose another name"
                )
            )
        self._added = [r for r in self._added if (r.kind, r.name) != (record.kind, record.name)]
        self._added.append(replace(record, package=HERE, version=""))
        self._tables = {}

    def remove(self, kind: str, name: str) -> None:
        """Take back what `add` registered."""
        self._added = [r for r in self._added if (r.kind, r.name) != (kind, name)]
        self._tables = {}

    def table(self, kind: str) -> dict[str, Record]:
        """Return name → record of one kind; contested names appear as `package:name` only."""
        if kind not in self._tables:
            records = [r for p in self.plugins for r in p.records] + self._added
            self._tables[kind] = _resolve([r for r in records if r.kind == kind])
        return self._tables[kind]

    def qualified(self, kind: str, package: str, name: str) -> Record | None:
        """Return the record of that name from that package, contested or not."""
        records = [r for p in self.plugins for r in p.records] + self._added
        wanted = (kind, discovery.normalise(package), name)
        for record in records:
            if (record.kind, discovery.normalise(record.package), record.name) == wanted:
                return record
        return None


def _resolve(records: list[Record]) -> dict[str, Record]:
    by_name: dict[str, list[Record]] = {}
    for record in records:
        by_name.setdefault(record.name, []).append(record)
    table: dict[str, Record] = {}
    for name, candidates in by_name.items():
        own = [r for r in candidates if r.package in SUITE]
        winner = own[0] if own else candidates[0] if len(candidates) == 1 else None
        if winner is not None:
            table[name] = winner
        for record in candidates:
            if record is winner:
                continue
            table[f"{record.package}:{name}"] = record
            if own:
                warnings.warn(
                    f"{record.package} registers the {record.kind} {name!r}, a name of the suite; "
                    f"it is reachable as '{record.package}:{name}'",
                    PluginWarning,
                    stacklevel=4,
                )
    return dict(sorted(table.items()))


def lost(plugin: Plugin) -> str:
    """Return one sentence on a plugin that failed: who, why, and the way out."""
    what = "could not be loaded" if plugin.status == "failed" else "was loaded in part"
    version = f" {plugin.version}" if plugin.version else ""
    return (
        f"the plugin {plugin.package}{version} {what} ({plugin.cause}); mend or uninstall it, "
        f"or set {discovery.ENV_BLOCK}={plugin.package}"
    )


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
        if record.missing:
            raise PluginError(
                f"the {self.kind} {name!r} needs a package that is not installed: "
                f"pip install {' '.join(repr(pip) for pip in record.missing)}",
                record.package,
            )
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
        parts += [lost(p) for p in self._registry.plugins if p.status in ("failed", "partial")]
        suggested = _SUGGESTED.get(self.kind)
        if suggested and all(p.package != suggested for p in self._registry.plugins):
            parts.append(f"the suite's own come with: pip install {suggested}")
        elif len(self):
            parts.append("installed: " + ", ".join(self))
        return UnknownNameError("; ".join(parts), name, nearest)


def load_target(record: Record) -> Any:
    """Import what a record points at; raises PluginError with the cause."""
    module, _, path = record.target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise PluginError(
            f"the {record.kind} {record.name!r} of {record.package} could not be imported from "
            f"{record.target} ({discovery.describe(error)})",
            record.package,
        ) from error
    return found


REGISTRY = Registry()
solvers: Catalogue[SolverRecord] = Catalogue(REGISTRY, SolverRecord)
gradients: Catalogue[GradientRecord] = Catalogue(REGISTRY, GradientRecord)
models: Catalogue[ModelRecord] = Catalogue(REGISTRY, ModelRecord)
tasks: Catalogue[TaskRecord] = Catalogue(REGISTRY, TaskRecord)
executors: Catalogue[ExecutorRecord] = Catalogue(REGISTRY, ExecutorRecord)
commands: Catalogue[CommandRecord] = Catalogue(REGISTRY, CommandRecord)


def register(record: Record, *, overwrite: bool = False) -> None:
    """Register a record in this process, as in a notebook; ArgumentError for a taken name."""
    if type(record) not in RECORD_TYPES.values():
        raise ArgumentError(
            f"register takes a record such as SolverRecord(...), not {record!r:.80}"
        )
    REGISTRY.add(record, overwrite=overwrite)


def plugin_rows() -> list[dict[str, Any]]:
    """Return one row for each plugin: where it comes from, its status, why it failed."""
    return [
        {
            "kind": "plugin",
            "name": plugin.name,
            "package": plugin.package,
            "version": plugin.version,
            "target": plugin.target,
            "status": plugin.status,
            "records": len(plugin.records),
            "reason": plugin.cause,
        }
        for plugin in REGISTRY.plugins
    ]
