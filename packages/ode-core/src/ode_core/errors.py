"""The errors of the suite: one sentence for a reader, the subject for a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class OdeError(Exception):
    """Any error that the suite raises on purpose; its text is meant to be read by a user."""


class ArgumentError(OdeError, ValueError):
    """An argument, or a combination of arguments, that cannot be used."""


class DataError(OdeError, ValueError):
    """A file or folder that is not what it should be: says what was found and what was expected."""


class UnknownNameError(OdeError, KeyError):
    """A name that no installed package registers; `name` and `nearest` say which was meant.

    A KeyError, and so a LookupError: catalogues are mappings, whose `get` relies on it.
    """

    def __init__(self, message: str, name: str = "", nearest: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.nearest = tuple(nearest)

    def __str__(self) -> str:
        """Return the sentence itself; a KeyError would show it in quotes."""
        return str(self.args[0])


class PluginError(OdeError):
    """A plugin, or a record of one, that could not be loaded; `provider` names the distribution."""

    def __init__(self, message: str, provider: str = "") -> None:
        super().__init__(message)
        self.provider = provider


class UnsupportedError(OdeError):
    """Something that the chosen solver or gradient method cannot do."""


class OdeWarning(UserWarning):
    """Any warning of the suite: one filter for all of them."""


class PluginWarning(OdeWarning):
    """A plugin was lost, misbehaved while it was loaded, or wants a name that is taken."""


class PrecisionWarning(OdeWarning):
    """A tolerance, or a step, that the state's dtype cannot hold."""


class GradientWarning(OdeWarning):
    """A gradient that was found to differ from the exact one of the same solve."""


class GraphWarning(OdeWarning):
    """A solve that was to run as a CUDA graph and could not."""


class DownloadWarning(OdeWarning):
    """Data are fetched from somewhere, under a licence of theirs."""


class CompatibilityWarning(OdeWarning):
    """An argument of another library that has no effect here."""


class SolveError(OdeError, RuntimeError):
    """A solve that could not be finished; `solution` holds what was reached, NaN after that."""

    def __init__(self, message: str, solution: Any = None) -> None:
        super().__init__(message)
        self.solution = solution
