"""The stiffness hint: speaks on a stiff problem, silent on those that explicit methods are for."""

from __future__ import annotations

import math

import pytest
import torch

import ode_core
from ode_core import solve
from ode_solvers.stiffness import Suspicion, last_stages, real_boundary
from tests.problems import F64


class Spy:
    """A solver that keeps the slopes of every attempted step."""

    def __init__(self, solver):
        self.solver, self.slopes = solver, []

    def __getattr__(self, name):
        return getattr(self.solver, name)

    def step(self, *given):
        made = self.solver.step(*given)
        self.slopes.append(made.dense)
        return made


def suspicion(f, y0, t1, solver, tolerance):
    """The suspicion at the end of a solve."""
    spy = Spy(ode_core.solvers.create(solver))
    stages, found = last_stages(spy.tableau), Suspicion()
    steps = solve(f, torch.tensor(y0, dtype=F64), [0.0, t1], solver=spy, rtol=tolerance,
                  atol=tolerance, record_steps=True).steps  # fmt: skip
    for ks, accepted in zip(spy.slopes, steps.accepted.tolist(), strict=True):
        found = found.after(stages, ks) if accepted else found
    return found


def stiff_van_der_pol(t, y):
    return torch.stack([y[1], ((1 - y[0] ** 2) * y[1] - y[0]) / 0.003])


@pytest.mark.parametrize("solver", ["dopri5", "tsit5"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_it_speaks_on_the_stiff_van_der_pol_oscillator(solver, tolerance):
    found = suspicion(stiff_van_der_pol, [2.0, 0.0], 2.0, solver, tolerance)
    assert found.founded
    assert "looks stiff" in found.sentence


def chain(diagonal, lower, upper, n):
    """y' = A y with a tridiagonal A, from the first unit vector."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=F64))
    matrix += torch.diag(torch.tensor(lower, dtype=F64), -1)
    matrix += torch.diag(torch.tensor(upper, dtype=F64), 1)
    return (lambda t, y: matrix @ y), [1.0] + [0.0] * (n - 1)


def kepler(eccentricity):
    def f(t, y):
        return torch.cat([y[2:], -y[:2] / y[:2].square().sum() ** 1.5])

    e = eccentricity
    return f, [1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))]


def rows(f):
    return lambda t, y: torch.stack(f(t, *y))


DETEST = {
    "A1": (lambda t, y: -y, [1.0]),
    "A2": (lambda t, y: -(y**3) / 2, [1.0]),
    "A3": (lambda t, y: y * torch.cos(t), [1.0]),
    "A4": (lambda t, y: y / 4 * (1 - y / 20), [1.0]),
    "A5": (lambda t, y: (y - t) / (y + t), [4.0]),
    "B1": (rows(lambda t, a, b: (2 * (a - a * b), -(b - a * b))), [1.0, 3.0]),
    "B2": (rows(lambda t, a, b, c: (b - a, a - 2 * b + c, b - c)), [2.0, 0.0, 1.0]),
    "B3": (rows(lambda t, a, b, c: (-a, a - b * b, b * b)), [1.0, 0.0, 0.0]),
    "B4": (
        rows(lambda t, a, b, c: (-b - a * c / torch.hypot(a, b), a - b * c / torch.hypot(a, b),
                                 a / torch.hypot(a, b))),
        [3.0, 0.0, 0.0],
    ),
    "B5": (rows(lambda t, a, b, c: (b * c, -a * c, -0.51 * a * b)), [0.0, 1.0, 1.0]),
    "C1": chain([-1.0] * 9 + [0.0], [1.0] * 9, [0.0] * 9, 10),
    "C2": chain([*(-float(i) for i in range(1, 10)), 0.0], [float(i) for i in range(1, 10)],
                [0.0] * 9, 10),
    "C3": chain([-2.0] * 10, [1.0] * 9, [1.0] * 9, 10),
    "C4": chain([-2.0] * 51, [1.0] * 50, [1.0] * 50, 51),
    **{f"D{i}": kepler(e) for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), 1)},
    "E1": (rows(lambda t, a, b: (b, -b / (t + 1) - (1 - 0.25 / (t + 1) ** 2) * a)),
           [0.6713967071418030, 0.09540051444747446]),
    "E2": (rows(lambda t, a, b: (b, (1 - a * a) * b - a)), [2.0, 0.0]),
    "E3": (rows(lambda t, a, b: (b, a**3 / 6 - a + 2 * torch.sin(2.78535 * t))), [0.0, 0.0]),
    "E4": (rows(lambda t, a, b: (b, 0.032 - 0.4 * b * b)), [30.0, 0.0]),
    "E5": (rows(lambda t, a, b: (b, torch.sqrt(1 + b * b) / (25 - t))), [0.0, 0.0]),
}  # fmt: skip


@pytest.mark.parametrize("solver", ["dopri5", "tsit5"])
@pytest.mark.parametrize("problem", DETEST)
def test_it_is_silent_on_detest(solver, problem):
    f, y0 = DETEST[problem]
    for tolerance in (1e-3, 1e-6):
        found = suspicion(f, y0, 20.0, solver, tolerance)
        assert found.sentence == ""


def slopes(solver, rate, h):
    """The slopes of one step of y' = -rate y."""
    f, y = (lambda t, y: -rate * y), torch.ones(2, dtype=F64)
    return solver.step(f, 0.0, h, y, solver.init(f, 0.0, y), None).dense


@pytest.mark.parametrize("solver", ["dopri5", "tsit5"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_quotient_is_the_eigenvalue_times_the_step(solver, sign):
    stepper = ode_core.solvers.create(solver)
    found = last_stages(stepper.tableau).quotient(slopes(stepper, 7.0, sign * 0.3))
    assert found == pytest.approx(2.1)


def test_a_state_that_stands_still_has_no_quotient():
    stages = last_stages(ode_core.solvers.create("dopri5").tableau)
    assert stages.quotient([torch.zeros(3, dtype=F64)] * 7) == 0.0


@pytest.mark.parametrize(("solver", "reach"), [("dopri5", 3.3066), ("tsit5", 3.5068),
                                               ("euler", 2.0), ("rk4", 2.7853)])  # fmt: skip
def test_the_boundary_of_stability(solver, reach):
    tableau = ode_core.solvers.create(solver).tableau
    assert real_boundary(tableau) == pytest.approx(reach, abs=1e-4)


@pytest.mark.parametrize("solver", ["rk4", "bosh3", "dopri8", "adaptive_heun"])
def test_methods_without_two_stages_at_the_end_have_none(solver):
    assert last_stages(ode_core.solvers.create(solver).tableau) is None


def test_six_easy_steps_set_the_count_back():
    """Slopes of y' = -y with the step at 4, beyond the limit, and at 1, within it."""
    stepper = ode_core.solvers.create("dopri5")
    stages = last_stages(stepper.tableau)
    hard, easy = slopes(stepper, 1.0, 4.0), slopes(stepper, 1.0, 1.0)
    found = Suspicion(steps=199)
    for ks in [hard] * 14 + [easy] * 11 + [hard] * 14 + [easy] * 5:
        found = found.after(stages, ks)
        assert not found.founded
    assert found.after(stages, hard).founded
    # Without suspicion only every 25th step is looked at.
    assert Suspicion(steps=200).after(stages, hard) == Suspicion(steps=201)
    assert Suspicion(steps=224).after(stages, hard) == Suspicion(steps=225, stiff=1)
    young = Suspicion()
    for _ in range(99):
        young = young.after(stages, hard)
    assert young == Suspicion(steps=99)
