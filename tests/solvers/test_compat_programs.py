"""Programs written for torchdiffeq run after their import line is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "compat_programs"
THEIRS, OURS = "from torchdiffeq import", "from ode_solvers.compat.torchdiffeq import"


def program(name):
    """Return the main of a program in which one line has been changed."""
    text = (PROGRAMS / f"{name}.py").read_text()
    assert text.count("torchdiffeq") == text.count(THEIRS) == 1
    names = {"__name__": name}
    exec(compile(text.replace(THEIRS, OURS), f"{name}.py", "exec"), names)
    return names["main"]


@pytest.mark.parametrize("adjoint", [[], ["--adjoint"]], ids=["odeint", "odeint_adjoint"])
def test_the_spiral_is_learnt(adjoint):
    """torchdiffeq 0.2.5 goes from 0.21731835 to 0.06189769 in 60 steps.

    Its target is solved at the least tolerance of float32, where rounding decides the steps and the
    fifth digit, from which RMSprop makes 3 % of the last loss.
    """
    losses = program("spiral")(adjoint)
    assert losses["first"] == pytest.approx(0.217318, abs=1e-4)
    assert losses["last"] == pytest.approx(0.061898, rel=0.05)


@pytest.mark.parametrize("adjoint", [False, True], ids=["odeint", "odeint_adjoint"])
def test_gravity_is_learnt_from_the_times_of_bounces(adjoint):
    """The same times, and the same gravity after 20 rounds, as by torchdiffeq 0.2.5."""
    result = program("bouncing_ball")(adjoint)
    assert result["times"] == pytest.approx([1.421411, 3.979958, 6.282666], abs=1e-5)
    assert result["lowest"] == pytest.approx(0.1, abs=2e-4)
    assert result["gravity"] == pytest.approx(9.55369, abs=1e-3)
    assert result["steps"] > 0


def test_a_flow_is_trained_and_runs_back():
    """torchdiffeq 0.2.5 goes from 4.01519 to 2.73525 in 25 steps."""
    result = program("flow")()
    assert result["first"] == pytest.approx(4.01519, abs=1e-3)
    assert result["last"] == pytest.approx(2.735, abs=2e-2)
    assert result["round_trip"] < 1e-5
