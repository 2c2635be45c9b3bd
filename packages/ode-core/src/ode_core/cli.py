"""The `ode` command: lists what is installed and hands over to the commands of other packages."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console

from ode_core import discovery, plugin, registry
from ode_core.console import Output
from ode_core.errors import ArgumentError, OdeError, UnknownNameError
from ode_core.records import CommandRecord

BAD_USAGE = 2
INTERRUPTED = 130

# These may stand anywhere on the line; they are moved to the front before parsing.
_SWITCHES = ("--json", "--quiet", "--no-plugins", "--debug")
_VALUED = ("--plugin",)


class _Interrupted(Exception):  # noqa: N818 - not an error
    """Ctrl-C within a command; typer would end with a status and no word."""


class _Group(typer.core.TyperGroup):
    """The commands that packages register; help shows them without importing them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise _Interrupted(*getattr(interrupt, "__notes__", ())) from None

    def list_commands(self, ctx: Any) -> list[str]:
        return list(dict.fromkeys([*_own(), *registry.commands]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        record = _record(cmd_name)
        if record is None:
            return None
        return typer.core.TyperCommand(cmd_name, help=record.summary, short_help=record.summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        record = _record(name) or registry.commands[name]  # which names what was meant
        return name, _loaded(name, record), args[1:]


def _own() -> dict[str, CommandRecord]:
    return {record.name: record for record in plugin.ode_commands()}


def _record(name: str) -> CommandRecord | None:
    # Core's own are found without a look at any plugin: ode doctor has to work beside one that
    # ends the process when it is loaded.
    return _own().get(name) or registry.commands.get(name)


def _loaded(name: str, record: CommandRecord) -> Any:
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command(name, help=record.summary)(registry.load_target(record))
    return typer.main.get_command(holder)


app = typer.Typer(
    cls=_Group,
    name="ode",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(
    ctx: typer.Context,
    *,
    json: Annotated[bool, typer.Option("--json", help="Write one JSON array to stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes, no progress.")] = False,
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="Load the suite's own packages only.")
    ] = False,
    files: Annotated[
        list[Path] | None,
        typer.Option("--plugin", metavar="FILE", help="Load this Python file as a plugin."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Solve, and train through, ordinary differential equations with PyTorch."""
    # Worker processes inherit these, so that they see the same plugins.
    if no_plugins:
        os.environ[discovery.ENV_ALLOW] = ""
        os.environ.pop(discovery.ENV_FILES, None)
    if files:
        os.environ[discovery.ENV_FILES] = os.pathsep.join(str(path.resolve()) for path in files)
    if no_plugins or files:
        registry.REGISTRY.refresh()
    ctx.obj = Output(json=json, quiet=quiet, debug=debug)


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 1 for an error, 2 for bad usage."""
    arguments = _globals_first(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    with warnings.catch_warnings():
        warnings.showwarning = _one_line_warning  # type: ignore[assignment]  # it takes *args
        try:
            return int(app(arguments, standalone_mode=False) or 0)
        except (_Interrupted, KeyboardInterrupt) as interrupt:
            _complain("; ".join(["interrupted", *map(str, interrupt.args)]))
            return INTERRUPTED
        except OdeError as error:
            if debug:
                raise
            _complain(str(error))
            return BAD_USAGE if isinstance(error, ArgumentError | UnknownNameError) else 1
        except Exception as error:
            # typer keeps its own copy of click; its usage errors know how to show themselves.
            show = getattr(error, "show", None)
            if show is not None:
                show()
                return int(getattr(error, "exit_code", BAD_USAGE))
            if debug:
                raise
            _complain(f"{discovery.describe(error)}; run again with --debug for the traceback")
            return 1


def _globals_first(arguments: list[str]) -> list[str]:
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in _SWITCHES or (word.split("=")[0] in _VALUED and "=" in word):
            front.append(word)
        elif word in _VALUED:
            front += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            rest.append(word)
    return front + rest


def _complain(text: str) -> None:
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"ode: {text}")


def _one_line_warning(message: Warning | str, *_: Any) -> None:
    _complain(f"note: {message}")


if __name__ == "__main__":
    sys.exit(main())
