"""What this package registers, and that to list it imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ode_core
from ode_core import registry
from ode_core.protocols import PRESETS
from ode_tasks import (
    cifar10,
    digits,
    linear,
    lotka_volterra,
    pendulum,
    spiral,
    van_der_pol,
)

OWN = "ode-tasks"


def test_the_contracts_tasks_are_there():
    own = {name: record for name, record in ode_core.tasks.items() if record.package == OWN}
    assert set(own) >= {"cifar10", "digits", "glucose", "linear", "spiral"}
    assert [name for name, record in own.items() if record.needs_data] == ["cifar10"]
    for record in own.values():
        assert ode_core.models[record.default_model].fits == record.fits


def test_commands_and_executor_are_there():
    assert set(ode_core.registry.commands) >= {"run", "study", "benchmark", "report"}
    assert "local" in ode_core.executors


@pytest.mark.parametrize("kind", ["tasks", "executors", "commands"])
def test_every_target_can_be_imported(kind):
    for record in getattr(registry, kind).values():
        if record.package == OWN:
            assert callable(registry.load_target(record))


def test_the_plugin_module_imports_nothing_heavy():
    heavy = "{'torch', 'pandas', 'matplotlib', 'numpy', 'sklearn', 'torchvision'}"
    code = f"import sys, ode_tasks.plugin; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [cifar10, digits])
def test_the_presets_of_a_task_grow(module):
    assert tuple(module.PRESETS) == PRESETS
    epochs = [module.PRESETS[name].epochs for name in PRESETS]
    assert epochs == sorted(set(epochs))


@pytest.mark.parametrize("module", [linear, lotka_volterra, pendulum, spiral, van_der_pol])
def test_the_presets_of_dynamics_see_more_and_fit_longer(module):
    presets = [module.PRESETS[name] for name in PRESETS]
    for name in ("trajectories", "slopes", "iterations"):
        sizes = [getattr(preset, name) for preset in presets]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]
    smoke, quick, full = (preset.shoot for preset in presets)
    assert smoke == ()
    assert full[-1] >= quick[-1] > 0
