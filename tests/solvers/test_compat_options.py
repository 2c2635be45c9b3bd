"""torchdiffeq's options and callbacks through the drop-in."""

from __future__ import annotations

import warnings

import pytest
import torch

from ode_solvers.compat.torchdiffeq import odeint, odeint_adjoint
from ode_solvers.compat.torchdiffeq.methods import CHOSEN, GIVEN, METHODS
from tests.solvers.compat_problems import F32, F64, problem

ADAPTIVE = [name for name, method in METHODS.items() if method.steps == CHOSEN]
FIXED = [name for name, method in METHODS.items() if method.steps == GIVEN]
UNIT = torch.tensor([0.0, 1.0])


class Counted(torch.nn.Module):
    """f as a module that counts its calls and notes the times."""

    def __init__(self, f):
        super().__init__()
        self.f = f
        self.times = []

    @property
    def calls(self):
        return len(self.times)

    def forward(self, t, y):
        self.times.append(t.detach().clone())
        return self.f(t, y)


@pytest.mark.parametrize("adjoint", [False, True], ids=["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", [name for name in ADAPTIVE if name != "dopri8"])
def test_jump_t_saves_evaluations_both_ways(method, dtype, adjoint):
    def broken(t, x):
        return -0.5 * x if t < 0.5 else x**2

    counts = []
    for options in ({}, {"jump_t": torch.tensor([0.5])}):
        f = Counted(broken)
        x0 = torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=adjoint)
        solver = odeint_adjoint if adjoint else odeint
        x = solver(f, x0, UNIT, method=method, options=options, rtol=1e-6, atol=1e-6)
        forward = f.calls
        if adjoint:
            x.sum().backward()
        counts.append((forward, f.calls - forward))
    (without, without_back), (with_jump, with_jump_back) = counts
    assert with_jump < without
    if adjoint:
        assert with_jump_back < without_back


def test_step_t_and_jump_t_must_differ():
    same = {"step_t": torch.tensor([0.25, 0.5]), "jump_t": torch.tensor([0.5])}
    with pytest.raises(ValueError, match="no time in common"):
        odeint(lambda t, y: -y, torch.ones(1), UNIT, options=same)


def test_step_t_ends_a_step_there():
    f = Counted(lambda t, y: -y)
    ends = []
    f.callback_step = lambda t0, y0, dt: ends.append((t0 - dt).item())
    odeint(f, torch.ones(1), UNIT.flip(0), options={"step_t": torch.tensor([0.3])})
    assert any(abs(end - 0.3) < 1e-6 for end in ends)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("method", FIXED)
def test_perturb_keeps_evaluations_off_the_ends_of_steps(method, reverse):
    t = torch.tensor([0.0, 0.5, 1.0])
    t = t.flip(0) if reverse else t
    for perturb in (False, True):
        f = Counted(lambda t, y: -y)
        options = {"step_size": 0.5, "perturb": perturb}
        with torch.no_grad():
            odeint(f, torch.ones(1, dtype=F64), t, method=method, options=options)
        times = torch.stack(f.times)
        assert ((times >= 0.0) & (times <= 1.0)).all()
        if perturb:
            assert not torch.isin(times, torch.tensor([0.0, 0.5, 1.0], dtype=F64)).any()
        elif method not in ("implicit_midpoint", "gl4", "gl6"):
            assert torch.isin(times, torch.tensor([0.0, 0.5, 1.0], dtype=F64)).any()


class Growth(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.ones((), dtype=F64))

    def forward(self, t, y):
        return self.rate * y


def eleven(func, y0, t):
    return torch.linspace(float(t[0]), float(t[-1]), 11, dtype=t.dtype)


@pytest.mark.parametrize("function", [odeint, odeint_adjoint])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_a_grid_constructor_sets_the_steps(function, reverse):
    grids = []

    def grid(func, y0, t):
        grids.append(eleven(func, y0, t))
        return grids[-1]

    y0 = torch.ones((), dtype=F64, requires_grad=True)
    t = torch.tensor([1.0, 0.0] if reverse else [0.0, 1.0], dtype=F64)
    options = {"grid_constructor": grid}
    y = function(Growth(), y0, t, method="euler", options=options)
    y[-1].backward()
    factor = (0.9 if reverse else 1.1) ** 10
    assert y[-1].item() == pytest.approx(factor, abs=1e-6)
    assert y0.grad.item() == pytest.approx(factor, abs=1e-6)
    assert grids[0][0] == t[0]


def test_the_backward_solve_takes_a_grid_of_its_own():
    seen = []

    def coarse(func, y0, t):
        seen.append(t.tolist())
        return torch.linspace(float(t[0]), float(t[-1]), 3, dtype=t.dtype)

    f = Growth()
    y0 = torch.ones((), dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    y = odeint_adjoint(f, y0, t, method="euler", options={"grid_constructor": eleven},
                       adjoint_options={"grid_constructor": coarse})  # fmt: skip
    y[-1].backward()
    assert seen == [[1.0, 0.5], [0.5, 0.0]]
    assert y0.grad.item() == pytest.approx(1.25**4, abs=1e-12)


@pytest.mark.parametrize("min_step", [0, 2])
@pytest.mark.parametrize("max_step", [float("inf"), 5])
def test_the_smallest_and_the_largest_step(min_step, max_step):
    f, y0, t, _ = problem("linear")
    f.sizes = []
    f.callback_step = lambda t0, y0, dt: f.sizes.append(dt.item())
    options = {"min_step": min_step, "max_step": max_step}
    with torch.no_grad():
        odeint(f, y0, t, method="dopri5", options=options)
    assert f.calls < 50 if min_step == 2 else f.calls > 100
    assert max(f.sizes) <= max_step
    assert min(f.sizes[:-1]) >= min_step


def test_the_largest_step_holds_for_the_first_one_too():
    f = Counted(lambda t, y: 0 * y)
    sizes = []
    f.callback_step = lambda t0, y0, dt: sizes.append(dt.item())
    odeint(
        f, torch.ones(1), torch.tensor([0.0, 10.0]), options={"max_step": 0.5, "first_step": 3.0}
    )
    assert max(sizes) == 0.5
    assert len(sizes) == 20


def test_the_largest_step_of_scipys_solver():
    counts = []
    for max_step in (float("inf"), 0.01):
        f, y0, _, _ = problem("linear")
        t = torch.tensor([0.0, 2.0], dtype=F64)
        options = {"solver": "LSODA", "max_step": max_step, "min_step": 0}
        with torch.no_grad():
            odeint(f, y0, t, method="scipy_solver", options=options)
        counts.append(f.calls)
    assert counts[1] > 200 > counts[0]


def test_an_infinite_error_is_never_accepted_by_the_smallest_step():
    f = lambda t, y: torch.where(t > 0.5, float("nan"), -y)
    with pytest.raises(AssertionError, match=r"stopped at t = 0\.[45]"):
        odeint(f, torch.ones(1, dtype=F64), UNIT, options={"min_step": 0.1})


class Net(torch.nn.Module):
    def __init__(self, width=10, oscillate=False):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2)
        )
        self.oscillate = oscillate
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        out = self.layers(y)
        return out * torch.sin(2 * t) if self.oscillate else out


NAMES = ("callback_step", "callback_accept_step", "callback_reject_step")


def with_callbacks(net):
    counts = dict.fromkeys([name + suffix for name in NAMES for suffix in ("", "_adjoint")], 0)
    for name in counts:

        def callback(t0, y0, dt, name=name):
            assert t0.shape == dt.shape == ()
            assert dt > 0
            counts[name] += 1

        setattr(net, name, callback)
    return counts


def quietly(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


@pytest.mark.parametrize("method", FIXED)
def test_every_fixed_step_is_called_back_forwards_and_backwards(method):
    net, x0 = Net(), torch.tensor([1.0, 2.0])
    counts = with_callbacks(net)
    x = quietly(odeint_adjoint, net, x0, UNIT, method=method, options={"step_size": 0.1})
    assert counts["callback_step"] == 10
    x.sum().backward()
    assert counts["callback_step_adjoint"] == 10
    assert sum(counts.values()) == 20


@pytest.mark.parametrize("method", ADAPTIVE)
def test_every_attempt_is_called_back_and_accepted_or_rejected(method):
    net, x0 = Net(), torch.tensor([1.0, 2.0])
    counts = with_callbacks(net)
    x = odeint_adjoint(net, x0, UNIT, method=method, rtol=1e-4, atol=1e-4,
                       options={"first_step": 0.9})  # fmt: skip
    x.sum().backward()
    for suffix in ("", "_adjoint"):
        steps, accepted, rejected = (counts[name + suffix] for name in NAMES)
        assert steps == accepted + rejected > 0
        assert accepted > 0


def test_callbacks_get_the_state_as_func_does_and_true_times():
    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, t, y):
            return -y[0], y[1]

        def callback_step(self, t0, y0, dt):
            self.seen.append((t0, y0, dt))

        def callback_step_adjoint(self, t0, y0, dt):
            self.back = y0

    f = Pair()
    y0 = (torch.ones(2, requires_grad=True), torch.ones((), requires_grad=True))
    y = odeint_adjoint(f, y0, UNIT.flip(0), options={"dtype": torch.float64})
    t0, state, dt = f.seen[0]
    assert (t0.item(), t0.dtype, dt.dtype) == (1.0, F64, F64)
    assert [x.shape for x in state] == [(2,), ()]
    y[0].sum().backward()
    assert [x.shape for x in f.back] == [(), (2,), (), (2,), ()]
    odeint(f, y0, UNIT, options={"dtype": torch.float32})
    assert f.seen[-1][0].dtype == F32


@pytest.mark.parametrize("method", ["euler", "rk4", "implicit_euler", "scipy_solver"])
def test_callbacks_that_a_method_never_makes_are_warned_of(method):
    class Deaf(torch.nn.Module):
        def forward(self, t, y):
            return -y

        def callback_accept_step(self, t0, y0, dt):
            raise AssertionError("never called")

    with torch.no_grad(), pytest.warns(UserWarning, match="never calls callback_accept_step"):
        odeint(Deaf(), torch.ones(2), UNIT, method=method)


def test_unknown_options_are_warned_of():
    with pytest.warns(UserWarning, match=r"ignores the unexpected options \['step_size'\]"):
        odeint(lambda t, y: -y, torch.ones(2), UNIT, options={"step_size": 0.1})
    with pytest.warns(UserWarning, match="max_iters has no effect on trapezoid"):
        odeint(lambda t, y: -y, torch.ones(2), UNIT, method="trapezoid", options={"max_iters": 9})
    with pytest.raises(ValueError, match="exclude each other"):
        odeint(lambda t, y: -y, torch.ones(2), UNIT, method="rk4",
               options={"step_size": 0.1, "grid_constructor": eleven})  # fmt: skip


def test_the_order_of_adams_methods_is_limited():
    y0, t = torch.ones(1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    errors = []
    for most in (4, 12):
        options = {"step_size": 1 / 64, "max_order": most}
        y = odeint(lambda t, y: -2 * t * y**2, y0, t, method="explicit_adams", options=options)
        errors.append(abs(y[-1].item() - 0.5))
    assert errors[1] < errors[0] < 1e-5


def test_outputs_off_the_grid_are_cubic_unless_linear_is_asked_for():
    y0, t = torch.ones(1, dtype=F64), torch.tensor([0.0, 0.55, 1.0], dtype=F64)
    errors = {}
    for interp in ("linear", "cubic", None):
        options = {"step_size": 0.1} | ({} if interp is None else {"interp": interp})
        y = odeint(lambda t, y: y, y0, t, method="rk4", options=options)
        errors[interp] = abs(y[1].item() - torch.e**0.55)
    assert 1e-3 < errors["linear"] < 4e-3
    assert errors["cubic"] == errors[None] < 5e-6
    with pytest.raises(ValueError, match="'linear' or 'cubic'"):
        odeint(lambda t, y: y, y0, t, method="rk4", options={"interp": "spline"})


@pytest.mark.parametrize(
    ("slow", "fast"),
    [({"safety": 0.5}, {}), ({"first_step": 1e-7}, {"first_step": 0.1}),
     ({"ifactor": 1.5, "first_step": 1e-7}, {"first_step": 1e-7}),
     ({"dfactor": 0.95, "first_step": 5.0}, {"first_step": 5.0})],
)  # fmt: skip
def test_step_control_listens_to(slow, fast):
    counts = []
    for options in (slow, fast):
        f = Counted(lambda t, y: torch.cos(3 * t) * y)
        odeint(f, torch.ones(1, dtype=F64), torch.tensor([0.0, 5.0]), rtol=1e-5, options=options)
        counts.append(f.calls)
    assert counts[0] > counts[1]


def test_max_num_steps_is_counted_for_each_output_interval():
    f, y0 = (lambda t, y: torch.cos(9 * t) * y), torch.ones(1, dtype=F64)
    odeint(f, y0, torch.linspace(0, 3, 4), options={"max_num_steps": 60})
    with pytest.raises(AssertionError, match="max_steps"):
        odeint(f, y0, torch.linspace(0, 3, 4), options={"max_num_steps": 5})
