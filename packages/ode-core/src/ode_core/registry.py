"""Names and who gave them: the catalogues that `solve`, the command line and the benchmark read."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ode_core import discovery
from ode_core.catalogue import Catalogue, load_target
from ode_core.discovery import SUITE, Source
from ode_core.errors import ArgumentError, PluginWarning
from ode_core.loading import Plugin, Trouble, load
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

__all__ = [
    "HERE",
    "REGISTRY",
    "Catalogue",
    "PluginWarning",
    "Registry",
    "commands",
    "executors",
    "gradients",
    "load_target",
    "models",
    "plugin_rows",
    "register",
    "solvers",
    "tasks",
]

HERE = "registered here"


class Registry:
    """Every record of every plugin, loaded at the first question and kept."""

    def __init__(self) -> None:
        self._find: Callable[[], list[Source]] | None = None
        self._lock = threading.RLock()
        self._plugins: tuple[Plugin, ...] | None = None
        self._loading: list[Plugin] | None = None
        self._added: list[Record] = []
        self._tables: dict[str, dict[str, Record]] = {}

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """What became of every plugin, the suite's own first."""
        if self._plugins is None:
            with self._lock:
                if self._plugins is None:
                    return self._load()
        return self._plugins

    def _load(self) -> tuple[Plugin, ...]:
        if self._loading is not None:  # a plugin asks while it is imported
            return tuple(self._loading)
        self._loading = []
        try:
            for source in (self._find or discovery.find)():
                self._loading.append(load(source))
            self._plugins = tuple(_without_the_suites_names(self._loading))
        finally:
            self._loading = None
        for plugin in self._plugins:
            if plugin.sentence:
                warnings.warn(plugin.sentence, PluginWarning, stacklevel=4)
        return self._plugins

    def refresh(self) -> None:
        """Forget what was found, so that a package installed since is seen."""
        self._plugins = None
        self._tables = {}

    @contextmanager
    def isolated(self, find: Callable[[], list[Source]]) -> Iterator[None]:
        """Hold what `find` lists and nothing else; afterwards everything is as it was."""
        kept = (self._find, self._plugins, self._added, self._tables)
        self._find, self._plugins, self._added, self._tables = find, None, [], {}
        try:
            yield
        finally:
            self._find, self._plugins, self._added, self._tables = kept

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
            table = _resolve([r for r in records if r.kind == kind])
            if self._plugins is None:  # not all of them are there yet
                return table
            self._tables[kind] = table
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
        table |= {f"{r.package}:{name}": r for r in candidates if r is not winner}
    return dict(sorted(table.items()))


def _without_the_suites_names(plugins: list[Plugin]) -> Iterator[Plugin]:
    """Yield the plugins, each with the names of the suite that it wants among its troubles."""
    own = {(r.kind, r.name) for p in plugins if p.package in SUITE for r in p.records}
    for plugin in plugins:
        wanted = [r for r in plugin.records if (r.kind, r.name) in own]
        if plugin.package in SUITE or not wanted:
            yield plugin
            continue
        names = ", ".join(f"{r.kind} {r.name!r}" for r in wanted)
        reachable = ", ".join(repr(f"{r.package}:{r.name}") for r in wanted)
        yours = "names" if len(wanted) > 1 else "a name"
        trouble = Trouble(
            f"it registers the {names}, {yours} of the suite, and is reachable as {reachable}",
            "have it choose names of its own",
        )
        yield replace(plugin, troubles=(*plugin.troubles, trouble))


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
            "remedy": ", ".join(trouble.remedy for trouble in plugin.troubles if trouble.remedy),
        }
        for plugin in REGISTRY.plugins
    ]
