"""Finding plugins and loading them one at a time, so that a broken one costs only itself."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from ode_core import hooks
from ode_core.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

GROUP = "ode"
SUITE = ("ode-core", "ode-solvers", "ode-models", "ode-tasks")

# Read when the registry is first used, never at import; worker processes inherit them.
ENV_BLOCK = "ODE_PLUGINS_BLOCK"
ENV_ALLOW = "ODE_PLUGINS_ALLOW"
ENV_FILES = "ODE_PLUGIN_FILES"


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from, known before anything of it is imported."""

    package: str
    version: str
    name: str
    target: str
    load: Callable[[], ModuleType]
    from_file: bool = False


@dataclass(frozen=True)
class Plugin:
    """What became of one plugin: `status` is active, partial, blocked or failed."""

    package: str
    version: str
    name: str
    target: str
    status: str
    records: tuple[Record, ...] = ()
    cause: str = ""


def normalise(distribution: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def find() -> list[Source]:
    """List the installed plugins, the suite's own first, and the files named for this process."""
    unique: dict[tuple[str, str, str], Source] = {}
    for entry in metadata.entry_points(group=GROUP):
        package = normalise(entry.dist.name) if entry.dist is not None else entry.name
        version = entry.dist.version if entry.dist is not None else ""
        # An editable install, or lib beside lib64, may show the same entry point twice.
        unique[package, entry.name, entry.value] = Source(
            package, version, entry.name, entry.value, entry.load
        )
    installed = sorted(unique.values(), key=lambda s: (s.package not in SUITE, s.package, s.name))
    return installed + [_file_source(Path(path)) for path in _listed(ENV_FILES, os.pathsep)]


def _file_source(path: Path) -> Source:
    def load() -> ModuleType:
        if path.stem in sys.modules:
            return sys.modules[path.stem]
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise FileNotFoundError(f"there is no Python file at {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # so that targets in this file can be imported
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[path.stem]
            raise
        return module

    return Source(path.name, "", path.stem, str(path), load, from_file=True)


def _listed(variable: str, separator: str = ",") -> list[str]:
    return [part.strip() for part in os.environ.get(variable, "").split(separator) if part.strip()]


def blocked(source: Source) -> str:
    """Return why this plugin is not to be loaded, or an empty text."""
    if source.package in SUITE:
        return ""
    names = {source.package, source.name}
    if names & {normalise(name) for name in _listed(ENV_BLOCK)} or names & set(_listed(ENV_BLOCK)):
        return f"named in {ENV_BLOCK}"
    if ENV_ALLOW in os.environ and not source.from_file:
        allowed = {normalise(name) for name in _listed(ENV_ALLOW)} | set(_listed(ENV_ALLOW))
        if not names & allowed:
            return f"not named in {ENV_ALLOW}"
    return ""


def load(source: Source) -> Plugin:
    """Import one plugin and collect its records; never raises because of what the plugin does."""
    reason = blocked(source)
    if reason:
        return _plugin(source, "blocked", cause=reason)
    try:
        # What a plugin prints must not end up in output that programs read.
        with contextlib.redirect_stdout(sys.stderr):
            implementations = list(_implementations(source))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a guest must not take the host down
        return _plugin(source, "failed", cause=describe(error))
    records: list[Record] = []
    causes: list[str] = []
    for hook, implementation in implementations:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                for record in implementation():
                    records.append(_stamped(record, hook, source))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above, one hook at a time
            causes.append(f"{hook}: {describe(error)}")
    status = "active" if not causes else "partial" if records else "failed"
    return _plugin(source, status, tuple(records), "; ".join(causes))


def _plugin(
    source: Source, status: str, records: tuple[Record, ...] = (), cause: str = ""
) -> Plugin:
    return Plugin(
        source.package, source.version, source.name, source.target, status, records, cause
    )


def _implementations(source: Source) -> Iterator[tuple[str, Callable[[], Any]]]:
    # A manager of its own for every plugin: pluggy then names the plugin and the hook that is
    # wrong, and one plugin's mistake is not another's.
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(source.load(), name=source.name)
    manager.check_pending()
    for caller in manager.get_hookcallers(manager.get_plugin(source.name)) or []:
        for implementation in caller.get_hookimpls():
            yield caller.name, implementation.function


def _stamped(record: Any, hook: str, source: Source) -> Record:
    if not isinstance(record, Record):
        raise TypeError(f"yielded {record!r:.80}, which is no record")
    if f"ode_{record.kind}s" != hook:
        raise TypeError(f"yielded the {record.kind} {record.name!r}, which belongs to another hook")
    # Provenance is the host's to say, not the plugin's.
    return replace(record, package=source.package, version=source.version)


def describe(error: BaseException) -> str:
    """Return an error as one line: its type and its text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
