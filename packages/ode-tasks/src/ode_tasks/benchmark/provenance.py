"""Where the parts of a cell come from: versions, digests of source and of data; without torch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ode_core import registry
from ode_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ode_core.records import Record
    from ode_core.registry import Catalogue

Pairs = tuple[tuple[str, str], ...]

_SUITE = ("ode_core", "ode_solvers", "ode_models", "ode_tasks")
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|.+)|import[ \t]+(.+))$", re.MULTILINE
)
_WORD = re.compile(r"(\w+)(?:[ \t]+as[ \t]+\w+)?[ \t]*(?:,|$)", re.MULTILINE)
# What lies beside a module and is read or compiled by it.
_BESIDE = ("*.toml", "*.json", "*.c", "*.cpp", "*.cu", "*.h")
_DIGITS = 12


class Provenance:
    """The origins of the parts of cells, each looked up once."""

    def __init__(self) -> None:
        self._torch = metadata.version("torch")
        self._files = {
            plugin.package: Path(plugin.target)
            for plugin in registry.REGISTRY.plugins
            if not plugin.version and Path(plugin.target).is_file()
        }
        self._reader = _Reader()
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        self._catalogues: dict[str, Catalogue[Any]] = {
            "task": registry.tasks,
            "model": registry.models,
            "solver": registry.solvers,
            "gradient": registry.gradients,
        }

    def pairs(self, **names: str) -> tuple[Pairs, Pairs]:
        """Return packages and sources of the named parts, as `Cell` has them."""
        found = {part: self._origin(part, name) for part, name in names.items() if name}
        packages = [("torch", self._torch), *((part, label) for part, (label, _) in found.items())]
        sources = [(part, digest) for part, (_, digest) in found.items()]
        return tuple(p for p in packages if p[1]), tuple(s for s in sources if s[1])

    def _origin(self, kind: str, name: str) -> tuple[str, str]:
        """Return distribution and version of a part, and the digest of its source."""
        if (kind, name) not in self._known:
            record = self._catalogues[kind].get(name)
            self._known[kind, name] = ("", "") if record is None else self._found(record)
        return self._known[kind, name]

    def _found(self, record: Record) -> tuple[str, str]:
        file = self._files.get(record.package)
        if file is not None:  # a file has no version; its content takes that place
            digest = self._reader.digest([file])
            return f"{record.package} {digest[:8]}", digest
        module = record.target.partition(":")[0]
        return f"{record.package} {record.version}".strip(), self._reader.source(module)


class _Reader:
    """Reads sources, each file once."""

    def __init__(self) -> None:
        self._contents: dict[Path, bytes] = {}
        self._places: dict[str, Path | None] = {}
        self._imported: dict[Path, list[str]] = {}
        self._sources: dict[str, str] = {}

    def source(self, module: str) -> str:
        """Return a digest of a module and of what it imports of its own package and the suite."""
        if module not in self._sources:
            self._sources[module] = self.digest(sorted(self._closure(module)))
        return self._sources[module]

    def digest(self, paths: list[Path]) -> str:
        """Return a digest of the names and the content of files."""
        total = hashlib.sha256()
        for path in paths:
            if path not in self._contents:
                self._contents[path] = hashlib.sha256(path.read_bytes()).digest()
            total.update(f"{path.name}\n".encode() + self._contents[path])
        return total.hexdigest()[:_DIGITS]

    def _closure(self, module: str) -> set[Path]:
        # Found by reading, not by importing, so that what is imported for types alone is there,
        # too: sooner one file too many than one too few.
        within = {module.partition(".")[0], *_SUITE}
        seen: set[str] = set()
        found: set[Path] = set()
        todo = [module]
        while todo:
            name = todo.pop()
            if name in seen or name.partition(".")[0] not in within:
                continue
            seen.add(name)
            path = self._located(name)
            if path is None:
                continue
            found.add(path)
            if path.name != "__init__.py" or "." in name:  # a package's exports name all of it
                todo += self._imports(path)
            for pattern in _BESIDE:
                found.update(path.parent.glob(pattern))
        return found

    def _imports(self, path: Path) -> list[str]:
        if path not in self._imported:
            self._imported[path] = list(_imports(path.read_text(encoding="utf-8")))
        return self._imported[path]

    def _located(self, module: str) -> Path | None:
        if module not in self._places:
            self._places[module] = _located(module)
        return self._places[module]


def _imports(source: str) -> Iterator[str]:
    for package, names, modules in _IMPORT.findall(source):
        if package:
            yield package
            # What is imported may itself be a module.
            yield from (f"{package}.{name}" for name in _WORD.findall(names.strip("()")))
        else:
            yield from (part.split()[0] for part in modules.split(",") if part.strip())


def _located(module: str) -> Path | None:
    """Return the file of a module, without importing anything of it."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin:
        return None
    path = Path(spec.origin)
    if rest:
        path = path.parent.joinpath(*rest)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path if path.suffix == ".py" and path.is_file() else None


def data_digest(path: Path) -> str:
    """Return a digest of the names and the content of a file, or of all files below a folder.

    Raises DataError for what cannot be read.
    """
    total = hashlib.sha256()
    try:
        for file in sorted(_files(path)):
            total.update(f"{file.relative_to(path)}\n".encode())
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise DataError(
            f"the data in {path} cannot be read ({error}); see that all of it can be"
        ) from None
    return total.hexdigest()[:_DIGITS]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names if not name.startswith("."))
