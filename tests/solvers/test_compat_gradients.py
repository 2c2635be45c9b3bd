"""torchdiffeq's gradient and norm tests through the drop-in."""

from __future__ import annotations

import pytest
import torch

from ode_solvers.compat.torchdiffeq import odeint, odeint_adjoint
from ode_solvers.compat.torchdiffeq.methods import CHOSEN, EXTERNAL, METHODS
from tests.solvers.compat_problems import F32, F64, PROBLEMS, problem

ADAPTIVE = [name for name, method in METHODS.items() if method.steps == CHOSEN]
TORCH = [name for name, method in METHODS.items() if method.steps != EXTERNAL]
UNIT = torch.tensor([0.0, 1.0])


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("method", TORCH)
def test_gradients_of_odeint(method, reverse):
    f, y0, t, _ = problem("constant", reverse=reverse)
    t = t[:4].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda y0, t: odeint(f, y0, t, method=method), (y0, t))


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_odeint_adjoint(method, reverse):
    f, y0, t, _ = problem("constant", reverse=reverse)
    t = t[:4].detach().requires_grad_()
    # SciPy's solver at the default tolerances is no smooth enough function of t.
    tolerances = {"rtol": 1e-9, "atol": 1e-11} if method == "scipy_solver" else {}

    def solved(y0, t):
        return odeint_adjoint(f, y0, t, method=method, **tolerances)

    assert torch.autograd.gradcheck(solved, (y0, t))


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(
    ("ode", "bound"), [("constant", 1e-12), ("linear", 1e-5), ("sine", 5e-3), ("exp", 1e-2)]
)
def test_the_adjoint_agrees_with_odeint(ode, bound, reverse, timed):
    f, y0, t, truth = problem(ode, reverse=reverse)
    t = t.detach().requires_grad_(timed)
    cotangent = torch.rand_like(truth)
    inputs = [y0, *f.parameters(), *([t] if timed else [])]
    gradients = []
    for function in (odeint, odeint_adjoint):
        y = function(f, y0, t, rtol=1e-9, atol=1e-12)
        gradients.append(torch.autograd.grad(y, inputs, cotangent))
    for direct, adjoint in zip(*gradients, strict=True):
        assert (direct - adjoint).abs().max() < bound


class Spiral(torch.nn.Module):
    """y' = y^3 A, with a layer that f does not use."""

    def __init__(self):
        super().__init__()
        self.A = torch.nn.Parameter(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]))
        self.idle = torch.nn.Linear(2, 5)

    def forward(self, t, y):
        return y**3 @ self.A


def spiral_gradients(function, *, timed, **options):
    f = Spiral()
    y0 = torch.tensor([[2.0, 0.0]], requires_grad=True)
    t = torch.linspace(0, 25, 10).requires_grad_(timed)
    torch.manual_seed(1)
    y = function(f, y0, t, **options)
    y.backward(0.1 * torch.rand_like(y))
    return y0.grad, t.grad, f.A.grad, f.idle.weight.grad, f.idle.bias.grad


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("method", ["dopri5", "scipy_solver"])
def test_a_spirals_gradients_and_zeros_for_what_is_not_used(method, timed):
    wanted = spiral_gradients(odeint, timed=timed, method="dopri5")
    y0, t, a, weight, bias = spiral_gradients(odeint_adjoint, timed=timed, method=method)
    assert (y0 - wanted[0]).abs().max() < 3e-4
    assert (a - wanted[2]).abs().max() < 2e-3
    assert (t - wanted[1]).abs().max() < 1e-4 if timed else t is None
    assert weight.abs().max() == bias.abs().max() == 0.0


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_tuple_of_states_has_gradients(method, dtype):
    f, y0, t, _ = problem("constant", dtype)
    func = lambda t, y: (f(t, y[0]), f(t, y[1]))
    t = t[:3].detach()
    if dtype == F64:
        for index in (0, 1):
            solved = lambda y, i=index: odeint(func, (y, y), t, method=method)[i]
            assert torch.autograd.gradcheck(solved, (y0,))
    else:
        odeint(func, (y0, y0), t, method=method)[0][-1].backward()
        assert y0.grad.isfinite()


def test_func_need_not_be_a_module_and_what_it_closes_over_gets_gradients():
    rate = torch.tensor(-0.5, dtype=F64, requires_grad=True)
    late = torch.tensor(1.0, dtype=F64, requires_grad=True)

    def f(t, y):
        return rate * y if t < 0.5 else rate * late * y

    t = torch.tensor([0.0, 1.0], dtype=F64)
    y = odeint_adjoint(f, torch.ones(1, dtype=F64), t, options={"jump_t": torch.tensor([0.5])})
    got = torch.autograd.grad(y[-1].sum(), (rate, late))
    assert got[0].item() == pytest.approx(torch.e**-0.5, rel=1e-5)
    assert got[1].item() == pytest.approx(-0.25 * torch.e**-0.5, rel=1e-5)


def test_a_backward_method_of_its_own_needs_options_of_its_own():
    y0 = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="say nothing of rk4"):
        odeint_adjoint(Spiral(), y0, UNIT, method="dopri5", options={}, adjoint_method="rk4")
    counts = []
    for options in ({"step_size": 0.5}, {"step_size": 0.05}):
        f = Net()
        y = odeint_adjoint(f, y0, UNIT, adjoint_method="rk4", adjoint_options=options)
        f.calls = 0
        y.sum().backward()
        counts.append(f.calls)
    assert counts == [8, 80]


def test_tolerances_of_the_backward_solve():
    counts = []
    for options in ({}, {"adjoint_rtol": 1e-8}, {"adjoint_atol": 1e-3}):
        f = Net(oscillate=True)
        y = odeint_adjoint(f, torch.ones(2, requires_grad=True), UNIT, **options)
        f.calls = 0
        y.sum().backward()
        counts.append(f.calls)
    assert counts[1] > counts[0]
    assert counts[2] < 0.7 * counts[0]


class Net(torch.nn.Module):
    def __init__(self, width=10, *, oscillate=False):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2), torch.nn.Tanh()
        )
        self.oscillate, self.calls = oscillate, 0

    def forward(self, t, y):
        self.calls += 1
        out = self.layers(y)
        return out * torch.sin(2 * t) if self.oscillate else out


def rms(x):
    return x.square().mean().sqrt()


def test_a_norm_sees_the_state_as_func_does():
    seen = []

    def norm(state):
        seen.append(state)
        return rms(state[0] if isinstance(state, tuple) else state)

    square = torch.full((2, 2), 0.5)
    for x0 in (torch.tensor(1.0), (torch.tensor(1.0),), (torch.tensor(1.0), square)):
        seen.clear()
        odeint(lambda t, x: x, x0, UNIT, options={"norm": norm})
        assert seen
        shapes = {tuple(p.shape for p in s) if isinstance(s, tuple) else s.shape for s in seen}
        expected = tuple(p.shape for p in x0) if isinstance(x0, tuple) else x0.shape
        assert shapes == {expected}


PARAMS = (torch.rand(7, requires_grad=True), torch.rand((), requires_grad=True))


def grown(t, x):
    """Growth whose rate depends on both parameters, unequally."""
    rate = PARAMS[0].square().sum() + 0.1 * torch.cos(PARAMS[1] * t)
    return tuple(rate * part for part in x) if isinstance(x, tuple) else rate * x


PAIR = (torch.tensor(1.0), torch.full((2, 2), 0.5))


@pytest.mark.parametrize("semi", [False, True])
@pytest.mark.parametrize("x0", [torch.ones(()), torch.ones(1), torch.ones(2, 2), PAIR])
@pytest.mark.parametrize("own", [False, True], ids=["default", "own"])
def test_the_adjoints_norm_is_the_largest_of_its_parts(monkeypatch, x0, semi, own):
    """Of |t|, the norms of the state and of the adjoint, and each parameter's unless it is semi."""
    measured = spied(monkeypatch)
    state = x0 if isinstance(x0, tuple) else (x0,)

    def state_norm(given):
        parts = given if isinstance(given, tuple) else (given,)
        return max(rms(part) for part in parts)

    options = {"norm": state_norm} if own else None
    x = odeint_adjoint(
        grown, tuple(p.clone().requires_grad_() for p in state) if len(state) > 1
        else x0.clone().requires_grad_(), UNIT.clone().requires_grad_(),
        adjoint_params=PARAMS, options=options,
        adjoint_options={"norm": "seminorm"} if semi else {},
    )  # fmt: skip
    measured.clear()
    (x[0] if isinstance(x, tuple) else x).sum().backward()
    sizes = [p.numel() for p in state]
    assert measured
    moved = semi
    for ratio, value in measured:
        y, a, first, second, t = ratio.split([sum(sizes), sum(sizes), 7, 1, 1])
        parts = [t.abs(), *(rms(p) for p in (*y.split(sizes), *a.split(sizes)))]
        if semi:
            assert not first.any()
            assert not second.any()
        else:
            parts += [rms(first), second.abs()]
            moved |= bool(first.any())
        assert value == pytest.approx(float(torch.stack([p.reshape(()) for p in parts]).max()),
                                      rel=1e-6, abs=1e-6)  # fmt: skip
    assert moved


def spied(monkeypatch):
    """Note what every norm is asked and what it answers."""
    from ode_solvers.compat.torchdiffeq import norms

    measured = []
    for kind in (norms.UserTolerance, norms.BlockTolerance):

        def spy(self, ratio, real=kind.root_mean_square):
            value = real(self, ratio)
            measured.append((ratio.clone(), value))
            return value

        monkeypatch.setattr(kind, "root_mean_square", spy)
    return measured


def test_a_norm_of_ones_own_for_the_backward_solve_sees_every_part():
    seen, differ = [], []

    def norm(parts):
        seen.append(tuple(part.shape for part in parts))
        differ.append(not torch.equal(parts[1], parts[1 + (len(parts) - 3) // 2]))
        return max(part.abs().max() for part in parts)

    for x0 in (torch.tensor(1.0), PAIR):
        start = x0.clone() if isinstance(x0, torch.Tensor) else tuple(x.clone() for x in x0)
        x = odeint_adjoint(grown, start, UNIT, adjoint_params=PARAMS,
                           adjoint_options={"norm": norm})  # fmt: skip
        (x[0] if isinstance(x, tuple) else x).sum().backward()
    single = ((), (), (), (7,), ())
    pair = ((), (), (2, 2), (), (2, 2), (7,), ())
    assert {tuple(tuple(s) for s in shapes) for shapes in seen} == {single, pair}
    assert any(differ)


def test_parameters_without_gradients_are_warned_of_where_a_norm_would_miss_them():
    fixed = torch.ones(3)
    with pytest.warns(UserWarning, match="require no gradient take no part"):
        odeint_adjoint(lambda t, x: x, torch.ones(2), UNIT, adjoint_params=(*PARAMS, fixed),
                       adjoint_options={"norm": lambda parts: parts[1].abs().max()})  # fmt: skip


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_larger_norm_takes_at_least_as_many_evaluations(method, dtype):
    counts = []
    for factor in (1, 10):
        f = Net(oscillate=True).to(dtype)
        x0 = torch.tensor([1.0, 2.0], dtype=dtype)
        norm = lambda x, factor=factor: factor * x.abs().max()
        with torch.no_grad():
            odeint(f, x0, UNIT, method=method, options={"norm": norm}, rtol=1e-5, atol=1e-6)
        counts.append(f.calls)
    assert counts[0] <= counts[1]


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", [name for name in ADAPTIVE if name != "adaptive_heun"])
def test_the_seminorm_takes_no_more_evaluations_than_the_default(method, dtype):
    tolerance = 1e-8 if dtype == F64 else 1e-6
    counts = []
    for options in (None, {"norm": "seminorm"}):
        f = Net(1024, oscillate=True).to(dtype)
        x0 = torch.tensor([1.0, 2.0], dtype=dtype)
        x = odeint_adjoint(f, x0, UNIT, rtol=tolerance, atol=tolerance, method=method,
                           adjoint_options=options)  # fmt: skip
        f.calls = 0
        x.sum().backward()
        counts.append(f.calls)
    assert counts[1] <= counts[0]


@pytest.mark.parametrize("ode", PROBLEMS)
def test_the_time_has_a_gradient_at_every_entry(ode):
    """dL/dt_i = <g_i, f(t_i, y_i)>; the first is minus their sum where f has no time in it."""
    f, y0, t, truth = problem(ode)
    gradient = torch.rand_like(truth)
    for function in (odeint, odeint_adjoint):
        y = function(f, y0, t, rtol=1e-10, atol=1e-12)
        (g,) = torch.autograd.grad(y, t, gradient)
        slopes = torch.stack([f(time, x) for time, x in zip(t, truth, strict=True)])
        expected = (gradient * slopes).flatten(1).sum(1) if truth.dim() > 1 else gradient * slopes
        assert torch.allclose(g[1:], expected[1:], rtol=1e-3, atol=1e-5)
        assert g[0] != 0
