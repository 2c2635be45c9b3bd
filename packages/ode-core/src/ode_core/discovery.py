"""Finding plugins: what is installed, and what of it is wanted, before anything is imported."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ode_core.containment import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GROUP = "ode"
SUITE = ("ode-core", "ode-solvers", "ode-models", "ode-tasks")

# Read when the registry is first used, never at import; worker processes inherit them.
ENV_BLOCK = "ODE_PLUGINS_BLOCK"
ENV_ALLOW = "ODE_PLUGINS_ALLOW"
ENV_FILES = "ODE_PLUGIN_FILES"

_SECTION = re.compile(rf"^\s*\[\s*{GROUP}\s*\]", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from, known before anything of it is imported."""

    package: str
    version: str
    name: str
    target: str
    load: Callable[[], Any]
    from_file: bool = False

    @property
    def label(self) -> str:
        """The distribution and its version, as messages name them."""
        return f"{self.package} {self.version}".strip()


def normalise(distribution: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def find() -> list[Source]:
    """List the installed plugins, the suite's own first, and the files named for this process."""
    unique: dict[tuple[str, str, str], Source] = {}
    for distribution in metadata.distributions():
        for source in _sources(distribution):
            # An editable install, or lib beside lib64, may show the same entry point twice; the
            # one that is first on the path is the one that Python imports.
            unique.setdefault((source.package, source.name, source.target), source)
    installed = sorted(unique.values(), key=lambda s: (s.package not in SUITE, s.package, s.name))
    return installed + [_file_source(Path(path)) for path in _listed(ENV_FILES, os.pathsep)]


def _sources(distribution: metadata.Distribution) -> Iterator[Source]:
    # One distribution at a time, and the text first: one whose files are damaged would otherwise
    # end the search for all, and a name is a file to parse, which few of the installed are worth.
    try:
        declared = distribution.read_text("entry_points.txt") or ""
    except (OSError, ValueError):
        return
    if not _SECTION.search(declared):
        return
    package, version = _identity(distribution)
    entries: list[metadata.EntryPoint] = []
    with Attempt() as attempt:
        entries += distribution.entry_points.select(group=GROUP)
    if attempt.error:
        damaged = ValueError(f"its entry_points.txt cannot be read: {describe(attempt.error)}")
        yield Source(package, version, package, "", _raising(damaged))
    for entry in entries:
        yield Source(package, version, entry.name, entry.value, _loading(entry))


def _identity(distribution: metadata.Distribution) -> tuple[str, str]:
    """Return name and version, from the folder's name where there is no metadata to read."""
    with contextlib.suppress(Exception):  # what is raised differs between versions of Python
        return normalise(distribution.metadata["Name"]), distribution.version
    folder = Path(str(getattr(distribution, "_path", "unknown")))
    name, _, version = folder.stem.partition("-")
    return normalise(name), version


def _loading(entry: metadata.EntryPoint) -> Callable[[], Any]:
    if entry.pattern.match(entry.value) is None:
        return _raising(ValueError(f"its entry point reads {entry.value!r}, not 'package.module'"))
    return entry.load


def _raising(error: Exception) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


def _file_source(path: Path) -> Source:
    def load() -> Any:
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


def describe(error: BaseException) -> str:
    """Return an error as one line: its type and its text."""
    text = ""
    with contextlib.suppress(Exception):  # a guest's error may not even print
        text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
