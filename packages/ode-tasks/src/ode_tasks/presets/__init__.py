"""The presets of the tasks: one TOML file a task, which is also its documentation.

What stands before the first table holds for every preset; `[smoke]`, `[quick]` and `[full]` hold
what is theirs. A comment behind a key says what the setting means.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ode_core.errors import ArgumentError
from ode_core.protocols import PRESETS

S = TypeVar("S")

_COMMENTED = re.compile(r"^(\w+) *=.*?# *(.+)$", re.MULTILINE)


class Presets(Mapping[str, S]):
    """The settings of a task by the name of the preset, and what the file says of each setting."""

    def __init__(self, path: Path, settings: Mapping[str, S], meanings: Mapping[str, str]) -> None:
        self.path = path
        self.meanings = meanings
        self._settings = settings

    def __getitem__(self, name: str) -> S:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)


def load(name: str | Path, kind: type[S]) -> Presets[S]:
    """Return the presets in a file of this package, `cifar10.toml`, or at a path of a plugin's own.

    `kind` is the dataclass of the settings. Raises ArgumentError for a file that is no TOML, a
    preset that is missing, a setting that is unknown, or a value of another type than the field's.
    """
    path = Path(str(resources.files(__name__) / str(name)))  # an absolute path stays itself
    text = path.read_text(encoding="utf-8")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ArgumentError(f"{path} is no TOML: {error}") from None
    shared = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    named = {key: value for key, value in tables.items() if isinstance(value, dict)}
    if sorted(named) != sorted(PRESETS):
        raise ArgumentError(
            f"{path} holds the presets {', '.join(named) or 'none'}; expected {', '.join(PRESETS)}"
        )
    settings = {preset: _make(path, kind, shared | named[preset]) for preset in PRESETS}
    return Presets(path, settings, dict(_COMMENTED.findall(text)))


def _make(path: Path, kind: Any, values: Mapping[str, Any]) -> Any:
    types = get_type_hints(kind)
    for key, value in values.items():
        if key not in types or not _fits(value, types[key]):
            expected = f"a value of type {types[key]}" if key in types else ", ".join(types)
            raise ArgumentError(f"{path} sets {key} to {value!r}; expected {expected}")
    required = [field.name for field in dataclasses.fields(kind) if _required(field)]
    missing = [name for name in required if name not in values]
    if missing:
        raise ArgumentError(f"{path} lacks {', '.join(missing)}")
    return kind(**{key: _as(value, types[key]) for key, value in values.items()})


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _as(value: Any, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return tuple(value)
    return float(value) if kind is float else value
