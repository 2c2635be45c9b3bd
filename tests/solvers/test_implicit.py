"""Implicit methods: stiff references, stiff accuracy, Newton's method, Jacobians, counts."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

import ode_core
from ode_core import ArgumentError, FixedSteps, SolveError, Status, solve
from ode_solvers.implicit.table import ImplicitTableau
from ode_solvers.implicit.tables import RADAU5
from tests.problems import F64, van_der_pol
from tests.solvers.stiff_problems import (
    PROTHERO_ROBINSON_END,
    STIFF,
    prothero_robinson,
    robertson,
)

IMPLICIT = [n for n, r in ode_core.solvers.items() if r.target.startswith("ode_solvers.implicit.")]
ADAPTIVE = [name for name in IMPLICIT if ode_core.solvers[name].adaptive]
CONTRACT = ["implicit_euler", "trapezoid", "sdirk2", "trbdf2", "kvaerno5", "radau5"]


class Counted:
    """f with its own count and the times at which it was asked."""

    def __init__(self, f):
        self.f, self.calls, self.times = f, 0, []

    def __call__(self, t, y):
        self.calls += 1
        self.times.append(t.min().item())
        self.times.append(t.max().item())
        return self.f(t, y)


def test_the_contracts_names_are_registered():
    assert set(CONTRACT) <= set(IMPLICIT)
    assert {"implicit_midpoint", "gl4", "gl6", "radau_iia3"} <= set(IMPLICIT)


# What takes more than a second is in examples/stiff_figures.py, which measures all of them.
CASES = [
    *((problem, tolerance) for problem in STIFF for tolerance in (1e-3, 1e-6)),
    ("robertson 40", 1e-9),
]

# Steps of SciPy's Radau at 1e-6.
RADAU_STEPS = {"hires": 210, "robertson 40": 102, "van der pol 1e-6": 879}


@pytest.mark.parametrize(("problem", "tolerance"), CASES)
@pytest.mark.parametrize("name", ["kvaerno5", "radau5"])
def test_stiff_references(name, problem, tolerance):
    stiff = STIFF[problem]
    solution = solve(stiff.f, stiff.start(), [0.0, stiff.t1], solver=name, rtol=tolerance,
                     atol=stiff.small * tolerance)  # fmt: skip
    assert stiff.error(solution.ys[-1], tolerance) < 100
    assert solution.stats.accepted < 1000
    if (name, tolerance) == ("radau5", 1e-6):
        assert solution.stats.accepted <= RADAU_STEPS.get(problem, 1000)


# y(0) = 1, t = 1, h = 0.1.
PROTHERO_ROBINSON = {
    "implicit_euler": 2.9e-5,
    "trapezoid": 7.1e-7,
    "radau_iia3": 8.7e-7,
    "radau5": 6.9e-9,
    "gl6": 4.8e-8,
    "sdirk2": 2.0e-5,
    "trbdf2": 5.5e-7,
    "kvaerno5": 5e-7,
}


@pytest.mark.parametrize("name", PROTHERO_ROBINSON)
def test_prothero_robinson_with_steps_a_hundred_times_the_fast_scale(name):
    y0 = torch.ones(1, dtype=F64)
    end = solve(prothero_robinson, y0, [0.0, 1.0], solver=name, controller=FixedSteps(),
                dt=0.1).ys[-1]  # fmt: skip
    assert abs(end.item() - PROTHERO_ROBINSON_END) < PROTHERO_ROBINSON[name]


@pytest.mark.parametrize("name", ["gl4", "gl6", "radau5", "kvaerno5", "implicit_midpoint"])
def test_no_floor_above_rounding(name):
    """y' = -2 t y^2 is solved by 1/(1 + t^2); an iteration that stops at 1e-8 would show."""
    y0 = torch.ones(1, dtype=F64)
    order = ode_core.solvers[name].order
    errors = [
        abs(solve(lambda t, y: -2 * t * y * y, y0, [0.0, 1.0], solver=name,
                  controller=FixedSteps(), dt=dt).ys[-1].item() - 0.5)
        for dt in (1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 256)
    ]  # fmt: skip
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.2)
    assert order < 4 or errors[-1] < 2e-11


@pytest.mark.parametrize(
    ("name", "fixed"), [*((name, True) for name in IMPLICIT), *((name, False) for name in ADAPTIVE)]
)
def test_f_calls_are_the_real_ones_and_none_lies_outside(name, fixed):
    f = Counted(lambda t, y: -50 * (y - torch.cos(t)))
    options = dict(controller=FixedSteps(), dt=0.07) if fixed else {}
    solution = solve(f, torch.zeros(2, dtype=F64), [0.0, 1.5], solver=name, **options)
    assert f.calls == solution.stats.f_calls
    assert min(f.times) >= 0.0
    # Kvaerno's third stage lies at t + 1.23 h.
    assert max(f.times) <= 1.5 or name == "kvaerno5"


def test_steps_share_jacobians():
    """A Jacobian a step would cost three evaluations more in each."""
    f = Counted(robertson)
    solution = solve(f, torch.tensor([1.0, 0, 0], dtype=F64), [0.0, 40.0], solver="radau5",
                     rtol=1e-6, atol=1e-12)  # fmt: skip
    assert solution.stats.f_calls < 9 * solution.stats.accepted
    linear = solve(lambda t, y: -y, torch.ones(3, dtype=F64), [0.0, 5.0], solver="trapezoid",
                   dt=0.1)  # fmt: skip
    assert linear.stats.f_calls == 1 + 3 + 2 * 50


def test_a_users_jacobian_replaces_the_computed_one():
    calls = []

    def jacobian(t, y):
        calls.append(t.item())
        _, b, c = y.tolist()
        return torch.tensor(
            [[-0.04, 1e4 * c, 1e4 * b], [0.04, -1e4 * c - 6e7 * b, -1e4 * b], [0, 6e7 * b, 0]]
        )

    y0 = torch.tensor([1.0, 0, 0], dtype=F64)
    options = dict(rtol=1e-5, atol=1e-11)
    own = solve(robertson, y0, [0.0, 40.0],
                solver=ode_core.solvers.create("radau5", jacobian=jacobian), **options)  # fmt: skip
    computed = solve(robertson, y0, [0.0, 40.0], solver="radau5", **options)
    assert len(calls) > 2
    assert torch.allclose(own.ys, computed.ys, rtol=1e-6)
    assert computed.stats.f_calls - own.stats.f_calls == pytest.approx(3 * len(calls), abs=20)
    with pytest.raises(ArgumentError, match=r"df/dy, \[3, 3\]; got \(3,\)"):
        solve(robertson, y0, [0.0, 1.0],
              solver=ode_core.solvers.create("radau5", jacobian=lambda t, y: y))  # fmt: skip


class Cubed(torch.autograd.Function):
    """An operation without a forward derivative."""

    @staticmethod
    def forward(ctx, y):
        ctx.save_for_backward(y)
        return y**3

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return 3 * y**2 * grad


def numpys(t, y):
    return torch.from_numpy(-100 * y.detach().numpy() ** 3) - y


AWKWARD = {
    "no forward derivative": lambda t, y: -100 * Cubed.apply(y) - y,
    "under no_grad": torch.no_grad()(lambda t, y: -100 * y**3 - y),
    "in place": lambda t, y: (-100 * y**3).sub_(y),
    "through numpy": numpys,
}


@pytest.mark.parametrize("f", AWKWARD.values(), ids=AWKWARD)
def test_jacobians_of_awkward_functions(f):
    y0 = torch.tensor([1.0, 2.0, -3.0], dtype=F64)
    plain = solve(lambda t, y: -100 * y**3 - y, y0, [0.0, 1.0], solver="radau5", rtol=1e-8)
    awkward = solve(f, y0, [0.0, 1.0], solver="radau5", rtol=1e-8)
    assert torch.allclose(plain.ys, awkward.ys, atol=1e-7)
    assert awkward.stats.accepted < 1.2 * plain.stats.accepted


def kinked(t, y):
    return torch.where(y > 0.5, -1e3 * torch.ones_like(y), 1e3 * torch.ones_like(y))


def test_a_step_that_cannot_be_solved_is_an_error_and_never_a_number():
    y0 = torch.ones(1, dtype=F64)
    with pytest.raises(SolveError, match=r"implicit_euler could not solve its equations in the st"):
        solve(kinked, y0, [0.0, 1.0], solver="implicit_euler", dt=0.5)


def test_a_failed_newton_iteration_makes_the_step_smaller():
    solution = solve(lambda t, y: -(y**5), torch.full((1,), 50.0, dtype=F64), [0.0, 1.0],
                     solver="kvaerno5", dt=1.0, record_steps=True)  # fmt: skip
    assert solution.steps.error[0].isinf()
    assert solution.steps.dt[1] < 1.0
    assert solution.ys[-1].item() == pytest.approx((50.0**-4 + 4.0) ** -0.25, rel=1e-4)


def test_newton_tol_decides_what_is_left():
    f, y0 = van_der_pol(1.0), torch.tensor([2.0, 0.0], dtype=F64)
    options = dict(controller=FixedSteps(), dt=0.1)
    exact, rough = (
        solve(f, y0, [0.0, 3.0], solver=ode_core.solvers.create("gl4", **given), **options)
        for given in ({}, {"newton_tol": 1e-4})
    )
    assert rough.stats.f_calls < 0.8 * exact.stats.f_calls
    assert 1e-10 < (rough.ys[-1] - exact.ys[-1]).abs().max() < 1e-2


@pytest.mark.parametrize("name", ["trbdf2", "radau5", "sdirk2"])
def test_complex_states_and_functions_that_are_not_holomorphic(name):
    def f(t, z):
        return -20 * z + 3j * z.conj() + torch.exp(1j * t)

    def real(t, y):
        z = torch.complex(y[..., 0], y[..., 1])
        return torch.view_as_real(f(t, z))

    z0 = torch.tensor([1 + 1j, 0.5 - 2j], dtype=torch.complex128)
    options = dict(controller=FixedSteps(), dt=0.1, solver=name)
    ours = solve(f, z0, [0.0, 1.0], **options).ys[-1]
    pairs = solve(real, torch.view_as_real(z0), [0.0, 1.0], **options).ys[-1]
    assert torch.allclose(torch.view_as_real(ours), pairs, atol=1e-14)
    if name in ADAPTIVE:
        loose = solve(f, z0, [0.0, 1.0], solver=name, rtol=1e-6)
        assert torch.allclose(loose.ys[-1], ours, atol=0.1)


@pytest.mark.parametrize("name", IMPLICIT)
def test_float32_reaches_its_rounding(name):
    y0 = torch.tensor([1.0, 0.2])
    end = solve(hires_like, y0, [0.0, 2.0], solver=name, controller=FixedSteps(), dt=0.05).ys[-1]
    fine = solve(hires_like, y0.double(), [0.0, 2.0], solver=name, controller=FixedSteps(),
                 dt=0.05).ys[-1]  # fmt: skip
    assert end.dtype == torch.float32
    assert torch.allclose(end.double(), fine, rtol=2e-5)


def hires_like(t, y):
    return torch.stack([-30 * y[0] * y[1] + 1, y[0] - y[1] ** 2])


def test_options_without_effect_or_sense_are_refused():
    create = ode_core.solvers.create
    with pytest.raises(ArgumentError, match="linear is 'dense', 'krylov' or an object"):
        create("radau5", linear="lu")
    with pytest.raises(ArgumentError, match="jacobian= has no effect on a Krylov solver"):
        create("radau5", linear="krylov", jacobian=lambda t, y: y)
    with pytest.raises(ArgumentError, match="newton_tol lies between 0 and 1"):
        create("radau5", newton_tol=0.0)
    with pytest.raises(ArgumentError, match="jacobian is a function"):
        create("radau5", jacobian=torch.eye(2))


def test_solvers_can_be_pickled_copied_and_solve_the_same():
    y0 = torch.tensor([2.0, 0.0], dtype=F64)
    solver = ode_core.solvers.create("radau5", newton_tol=1e-9)
    ends = [
        solve(van_der_pol(5.0), y0, [0.0, 1.0], solver=each).ys[-1]
        for each in (solver, pickle.loads(pickle.dumps(solver)), copy.deepcopy(solver))
    ]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_tables_with_a_wrong_number_cannot_be_built():
    rows, weights, nodes = RADAU5.a, RADAU5.b, RADAU5.c
    wrong = [list(row) for row in rows]
    wrong[2][1] += 1e-6
    with pytest.raises(ArgumentError, match="row 2 of tableau 'off' sums to"):
        ImplicitTableau(wrong, weights, nodes, 5, "off")
    with pytest.raises(ArgumentError, match="miss an order condition of order 6"):
        ImplicitTableau(rows, weights, nodes, 6, "off")
    with pytest.raises(ArgumentError, match="has 5 entries for 4 stages"):
        ImplicitTableau([[0] * 5, *rows[1:]], weights, nodes, 5, "off")
    with pytest.raises(ArgumentError, match="cannot be filtered"):
        ImplicitTableau([[5 / 12, -1 / 12], [3 / 4, 1 / 4]], [3 / 4, 1 / 4], [1 / 3, 1], 3, "off",
                        filtered=True)  # fmt: skip


def test_a_rejected_solve_is_a_status():
    solution = solve(lambda t, y: y * y, torch.ones(1, dtype=F64), [0.0, 2.0], solver="radau5",
                     on_failure="return")  # fmt: skip
    assert solution.status in (Status.STEP_TOO_SMALL, Status.NOT_FINITE)
    assert solution.ys[-1].isnan().all()


def test_backwards_in_time_and_through_a_jump():
    """A relaxation towards a switching level; steps end where it switches."""

    def f(t, y):
        return -1e4 * (y - torch.where(t < 0.5, 1.0, 2.0))

    y0 = torch.zeros(1, dtype=F64)
    solution = solve(f, y0, [0.0, 0.49, 1.0], solver="radau5", jump_times=[0.5])
    assert solution.ys[:, 0].tolist() == pytest.approx([0.0, 1.0, 2.0], abs=1e-5)
    back = solve(lambda t, y: 1e4 * (y - torch.cos(t)) - torch.sin(t), y0 + math.cos(1.0),
                 [1.0, 0.0], solver="radau5")  # fmt: skip
    assert back.ys[-1].item() == pytest.approx(1.0, abs=1e-5)
