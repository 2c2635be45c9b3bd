"""A registry for a plugin's own tests: the suite, that plugin, and nothing else."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ode_core import discovery, registry
from ode_core.discovery import Source
from ode_core.loading import Plugin


@contextmanager
def isolated_registry(*plugins: str | ModuleType) -> Iterator[tuple[Plugin, ...]]:
    """Let catalogues hold the suite's own records and those of these plugins for a while.

    Whatever else is installed is not seen, what is registered meanwhile is taken back.

    Args:
        plugins: modules with hooks, or their import names such as "my_package.plugin".

    Yields:
        What became of each of them: `status` ("active" where all is well), `records`, and
        `sentence`, which is empty where the plugin has the manners of a good guest.

    """
    given = [_source(plugin) for plugin in plugins]
    own = [source for source in discovery.find() if source.package in discovery.SUITE]
    with registry.REGISTRY.isolated(lambda: own + given):
        yield registry.REGISTRY.plugins[len(own) :]


def _source(plugin: str | ModuleType) -> Source:
    if isinstance(plugin, str):
        name = plugin
        return Source(_package(name), "", name, name, lambda: importlib.import_module(name))
    return Source(_package(plugin.__name__), "", plugin.__name__, plugin.__name__, lambda: plugin)


def _package(module: str) -> str:
    return discovery.normalise(module.partition(".")[0])
