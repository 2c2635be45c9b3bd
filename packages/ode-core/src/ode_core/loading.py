"""Loading plugins one at a time, so that a broken one costs only itself and is named with care."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pluggy

from ode_core import discovery, hooks
from ode_core.containment import Attempt, contained
from ode_core.discovery import ENV_BLOCK, Source, describe
from ode_core.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ode_core.containment import Conduct

ACTIVE, PARTIAL, FAILED = "active", "partial", "failed"
INCOMPATIBLE, BLOCKED = "incompatible", "blocked"

_HOOKS = tuple(name for name in vars(hooks) if name.startswith("ode_"))


@dataclass(frozen=True)
class Trouble:
    """Something wrong with a plugin: what it is, and what to do about it."""

    cause: str
    remedy: str


@dataclass(frozen=True)
class Plugin:
    """What became of one plugin.

    `status` is active, partial (some of its records are lost), failed, incompatible (it asks for
    another plugin API) or blocked; `troubles` say why, or how an active one misbehaved.
    """

    package: str
    version: str
    name: str
    target: str
    status: str
    records: tuple[Record, ...] = ()
    troubles: tuple[Trouble, ...] = ()

    @property
    def lost(self) -> bool:
        """Whether something that it has to give is not there."""
        return self.status in (FAILED, PARTIAL, INCOMPATIBLE)

    @property
    def cause(self) -> str:
        """Everything that is wrong with it, without what to do."""
        return "; ".join(trouble.cause for trouble in self.troubles)

    @property
    def sentence(self) -> str:
        """Who it is, what is wrong and the way out; empty where nothing is."""
        if self.status == BLOCKED or not self.troubles:
            return ""
        happened = {
            ACTIVE: "works, but ",
            PARTIAL: f"was loaded in part (records kept: {len(self.records)}): ",
            FAILED: "could not be loaded: ",
            INCOMPATIBLE: "is not used: ",
        }[self.status]
        label = f"{self.package} {self.version}".strip()
        remedies = dict.fromkeys(trouble.remedy for trouble in self.troubles)
        return (
            f"the plugin {label} {happened}{self.cause}; {', '.join(remedies)}, "
            f"or set {ENV_BLOCK}={self.package} to go without it"
        )


@dataclass
class _Harvest:
    records: list[Record] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    incompatible: bool = False

    @property
    def status(self) -> str:
        if self.incompatible:
            return INCOMPATIBLE
        return ACTIVE if not self.troubles else PARTIAL if self.records else FAILED


def load(source: Source) -> Plugin:
    """Import one plugin and collect its records.

    Never raises because of what the plugin does; Ctrl-C while it is imported is the user's, and
    raises KeyboardInterrupt with a note of the plugin's name.
    """
    reason = discovery.blocked(source)
    if reason:
        return _plugin(source, BLOCKED, (), [Trouble(reason, "")])
    harvest = _Harvest()
    with contained() as conduct:
        _gather(source, conduct, harvest)
    status = harvest.status
    return _plugin(source, status, harvest.records, [*harvest.troubles, *_manners(conduct)])


def _plugin(source: Source, status: str, records: Any, troubles: Any) -> Plugin:
    where = (source.package, source.version, source.name, source.target)
    return Plugin(*where, status, tuple(records), tuple(troubles))


def _gather(source: Source, conduct: Conduct, harvest: _Harvest) -> None:
    implementations: list[tuple[str, Callable[[], Any]]] = []
    with Attempt() as attempt:
        module = source.load()
        refusal = _refusal(module, source)
        if refusal:
            harvest.incompatible = True
            harvest.troubles.append(refusal)
        else:
            implementations += _implementations(module, source, harvest)
    if attempt.error:
        harvest.troubles.append(guest_error(attempt.error, source.package, conduct))
        return
    for hook, implementation in implementations:
        with Attempt() as attempt:
            _collect(implementation, hook, source, harvest.records)
        if attempt.error:
            harvest.troubles.append(guest_error(attempt.error, source.package, conduct, hook))


def guest_error(
    error: BaseException, package: str, conduct: Conduct, subject: str = "it"
) -> Trouble:
    """Return what a guest raised as a trouble; raises it again where it is the user's Ctrl-C."""
    if isinstance(error, KeyboardInterrupt) and conduct.interrupted:
        error.add_note(
            f"it was importing {package}; if that hangs, set {ENV_BLOCK}={package}, "
            "or ask ode doctor"
        )
        raise error
    if isinstance(error, _Rubbish):
        return Trouble(str(error), "report it to its author")
    if isinstance(error, SystemExit):
        return Trouble(
            f"{subject} called sys.exit({error.code!r}) when it was loaded",
            "update or uninstall it",
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        return Trouble(f"{subject} raised {describe(error)}", f"install {missing}")
    return Trouble(f"{subject} raised {describe(error)}", "mend or uninstall it")


def _refusal(module: Any, source: Source) -> Trouble | None:
    """Return why a plugin's API number cannot be served, or None."""
    wanted = getattr(module, "ODE_PLUGIN_API", hooks.PLUGIN_API)
    if not _is_number(wanted):
        raise _Rubbish(f"its ODE_PLUGIN_API is {wanted!r:.80}, not a pair such as (1, 0)")
    have = hooks.PLUGIN_API
    if wanted[0] == have[0] and wanted[1] <= have[1]:
        return None
    newer = tuple(wanted) > have
    return Trouble(
        f"it is written for plugin API {wanted[0]}.{wanted[1]} and this ode-core has "
        f"{have[0]}.{have[1]}",
        f"pip install --upgrade {'ode-core' if newer else source.package}",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(type(part) is int for part in value)


def _implementations(
    module: Any, source: Source, harvest: _Harvest
) -> Iterator[tuple[str, Callable[[], Any]]]:
    # A manager of its own for every plugin: pluggy then names the hook that is wrong, and one
    # plugin's mistake is not another's.
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(module, name=source.name)
    callers = manager.get_hookcallers(module) or []
    if not callers:
        raise _Rubbish("it implements no hook; mark its functions with ode_core.hookimpl")
    for caller in callers:
        for implementation in caller.get_hookimpls():
            if caller.has_spec():
                yield caller.name, implementation.function
            elif not implementation.optionalhook:
                near = difflib.get_close_matches(caller.name, _HOOKS, n=1)
                meant = f", did it mean {near[0]}?" if near else ""
                harvest.troubles.append(
                    Trouble(
                        f"it implements the unknown hook {caller.name}{meant}",
                        "correct the hook's name",
                    )
                )


def _collect(
    implementation: Callable[[], Any], hook: str, source: Source, records: list[Record]
) -> None:
    yielded = implementation()
    if not hasattr(yielded, "__iter__"):
        raise _Rubbish(f"{hook} returned {yielded!r:.80}, which is no series of records")
    taken = {(record.kind, record.name) for record in records}
    for record in yielded:
        if not isinstance(record, Record):
            raise _Rubbish(f"{hook} yielded {record!r:.80}, which is no record")
        if f"ode_{record.kind}s" != hook:
            raise _Rubbish(
                f"{hook} yielded the {record.kind} {record.name!r}, which belongs to another hook"
            )
        if (record.kind, record.name) in taken:
            raise _Rubbish(f"{hook} yielded the {record.kind} {record.name!r} twice")
        taken.add((record.kind, record.name))
        # Provenance is the host's to say, not the plugin's.
        records.append(replace(record, package=source.package, version=source.version))


class _Rubbish(Exception):  # noqa: N818 - it never leaves this module
    """Something yielded or declared that the host cannot use, in words that follow a name."""


def _manners(conduct: Conduct) -> Iterator[Trouble]:
    """Yield what a guest did that is not its to do, though it works."""
    if conduct.heavy:
        yield Trouble(
            f"it is slow, for it imports {conduct.heavy} when it is loaded",
            f"have it import {conduct.heavy} behind the targets of its records",
        )
    if conduct.printed:
        yield Trouble(
            f"it printed {conduct.printed[:60]!r} when it was loaded, which went to stderr",
            "have it print nothing",
        )
    if conduct.changed:
        yield Trouble(
            f"it changed {' and '.join(conduct.changed)} when it was loaded, which was put back",
            "set what it needs yourself",
        )
