"""What a preset holds, what `--set KEY=VALUE` changes in it, and what a solve takes from it."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from ode_core.errors import ArgumentError
from ode_core.protocols import PRESETS
from ode_core.registry import gradients, models, solvers, tasks
from ode_tasks.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from ode_core.protocols import RunConfig
    from ode_tasks.presets import Presets

SOLVE_OPTIONS = ("solver", "gradient", "rtol", "atol", "dt")

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that every task has; a task adds its own and makes one object a preset.

    `rtol` and `atol` are for solvers that choose their steps, `dt` is the step of the others; all
    three are used where the run gives none. `precision` is a name that Lightning Fabric knows; the
    rest is `Schedule`'s.
    """

    epochs: int
    batch: int
    learning_rate: float
    width: int
    rtol: float = 1e-3
    atol: float = 1e-3
    dt: float = 0.25
    precision: str = "32-true"
    cosine: bool = True
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: int = 0
    clip: float = math.inf

    def __post_init__(self) -> None:
        """Raise ArgumentError for a size that is not at least 1 or a step that is not positive."""
        for name in ("epochs", "batch", "width"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}; it is a whole number from 1")
        for name in ("learning_rate", "rtol", "atol", "dt"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ArgumentError(f"{name} is {value}; it is a number above 0")
        if not (self.clip > 0 and 0 < self.gamma <= 1 and self.warmup >= 0):
            raise ArgumentError(
                "clip is above 0, gamma above 0 and at most 1, warmup at least 0; they are "
                f"{self.clip}, {self.gamma} and {self.warmup}"
            )

    def schedule(self, **stopping: Any) -> Schedule:
        """Return how to train by these settings; `stopping` is `Schedule`'s patience and watch."""
        names = ("epochs", "cosine", "milestones", "gamma", "warmup", "clip")
        return Schedule(**{name: getattr(self, name) for name in names}, **stopping)


S = TypeVar("S", bound=Settings)


def choose(presets: Mapping[str, S], config: RunConfig) -> S:
    """Return the settings of the config's preset with its `--set` pairs applied.

    Raises ArgumentError for an unknown preset, an unknown key or a value of the wrong type.
    """
    if config.preset not in presets:
        raise ArgumentError(
            f"no preset is named {config.preset!r}{_nearest(config.preset, presets)}; "
            f"the presets are {', '.join(PRESETS)}"
        )
    preset = presets[config.preset]
    types = get_type_hints(type(preset))
    for key in config.settings:
        if key not in types:
            raise ArgumentError(
                f"the task {config.task!r} has no setting {key!r}{_nearest(key, types)}; "
                f"it has {', '.join(types)}"
            )
    changes = {key: _value(key, text, types[key]) for key, text in config.settings.items()}
    return dataclasses.replace(preset, **changes)


def listed(presets: Presets[S], config: RunConfig) -> list[dict[str, Any]]:
    """Return a row for each setting: its value, where that comes from, and what it means.

    Raises what `choose` raises.
    """
    chosen = choose(presets, config)
    return [
        {
            "setting": field.name,
            "value": _shown(getattr(chosen, field.name)),
            "from": "--set" if field.name in config.settings else f"preset {config.preset}",
            "meaning": presets.meanings.get(field.name, ""),
        }
        for field in dataclasses.fields(chosen)
    ]


def _shown(value: Any) -> Any:
    return ", ".join(str(item) for item in value) if isinstance(value, tuple) else value


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """Return `KEY=VALUE` texts as a mapping; raises ArgumentError for a text without `=`."""
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key.strip()):
            raise ArgumentError(
                f"--set takes KEY=VALUE, as in --set epochs=3; {text!r} is not that"
            )
        settings[key.strip()] = value.strip()
    return settings


def check(config: RunConfig) -> None:
    """Refuse, before any work, a config whose parts do not go together.

    Raises UnknownNameError for a name that nobody registers, ArgumentError for a model that does
    not fit the task and for a setting without effect: anything of a solve for a model that solves
    nothing, a tolerance for a solver with fixed steps.
    """
    record, fits = models[config.model], tasks[config.task].fits
    if record.fits != fits:
        fitting = ", ".join(name for name, other in models.items() if other.fits == fits)
        raise ArgumentError(
            f"the model {config.model!r} is for {record.fits}; the task {config.task!r} takes a "
            f"model for {fits}: {fitting or 'none is installed, pip install ode-models'}"
        )
    if not record.solves:
        given = [name for name in SOLVE_OPTIONS if getattr(config, name) not in (None, "")]
        if given:
            raise ArgumentError(
                f"the model {config.model!r} solves no differential equation, so "
                f"{' and '.join(given)} would have no effect; leave out what was given"
            )
        return
    _ = gradients[config.gradient]
    if solvers[config.solver].adaptive:
        return
    given = [name for name in ("rtol", "atol") if getattr(config, name) is not None]
    if given:
        raise ArgumentError(
            f"the solver {config.solver!r} takes fixed steps, so {' and '.join(given)} would have "
            "no effect; leave out what was given, or choose an adaptive solver such as dopri5"
        )


def solving(config: RunConfig, settings: Settings) -> dict[str, Any]:
    """Return the solver, gradient, tolerances and step that the run uses, the preset's filled in.

    All are None for a model that solves nothing; the tolerances are None for a solver with fixed
    steps. A `dt` given for an adaptive solver is its first step. Raises what `check` raises.
    """
    check(config)
    if not models[config.model].solves:
        return dict.fromkeys(SOLVE_OPTIONS)
    options: dict[str, Any] = {name: getattr(config, name) for name in SOLVE_OPTIONS}
    defaulted = ("rtol", "atol") if solvers[config.solver].adaptive else ("dt",)
    for name in defaulted:
        if options[name] is None:
            options[name] = getattr(settings, name)
    return options


def build(config: RunConfig, settings: Settings, **options: Any) -> nn.Module:
    """Return the config's model, made with the task's options and, if it solves, the solve's.

    Raises what `check` raises.
    """
    used = solving(config, settings)
    if models[config.model].solves:
        options |= used | {"solver": solver_of(config.solver)}
    model: nn.Module = models.create(config.model, **options)
    return model


def solver_of(name: str) -> Any:
    """Return what a model is given as its solver.

    Its samples know nothing of each other, and an implicit solver that can make use of that should.
    """
    if not solvers[name].implicit:
        return name
    try:
        return solvers.create(name, batched=True)
    except ArgumentError:  # a solver from elsewhere may have no such option
        return name


def options(settings: Settings, *names: str) -> dict[str, Any]:
    """Return those settings that differ from their default, to make a model with.

    A model that has no such option needs none of the default.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    given = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in given.items() if value != defaults[name]}


def direct_twin(
    config: RunConfig, settings: Settings, model: nn.Module, **options: Any
) -> nn.Module:
    """Return a model of the same weights whose gradient is `direct`, on the same device.

    It is the model itself where that solves nothing or is trained by `direct` already. `options`
    are those that the model was built with.
    """
    if not models[config.model].solves or config.gradient == "direct":
        return model
    twin = build(dataclasses.replace(config, gradient="direct"), settings, **options)
    twin.load_state_dict(model.state_dict())
    return twin.to(next(model.parameters()).device)


def _value(key: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ArgumentError(f"the setting {key} is true or false; {text!r} is neither")
        return text.lower() in _TRUE
    if get_origin(kind) is tuple:
        parts = [part for part in text.strip("[]() ").split(",") if part.strip()]
        return tuple(_value(key, part.strip(), get_args(kind)[0]) for part in parts)
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise ArgumentError(f"the setting {key} is {expected}; {text!r} is not") from None


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(n) for n in nearest)}?" if nearest else ""
