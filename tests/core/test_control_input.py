"""Inputs u(t): what they are at, between and beyond their knots, and what a solve makes of them."""

from __future__ import annotations

import copy
import functools
import math
import pickle

import pytest
import torch
from scipy.interpolate import CubicHermiteSpline, CubicSpline

from ode_core import ArgumentError, Control, solve
from ode_core.knots import controls_in, knots_of
from ode_core.problem import neighbours
from tests.problems import F64

KINDS = ["hold", "linear", "cubic", "hermite"]
TIMES = torch.tensor([0.0, 1.0, 2.5, 3.0, 5.0], dtype=F64)
VALUES = torch.tensor([[1.0, 0.0], [3.0, -1.0], [2.0, 4.0], [0.5, 1.0], [1.0, 2.0]], dtype=F64)
MEALS = Control(TIMES, VALUES[:, 0], "hold")


def scipy_of(kind, times, values):
    if kind == "cubic":
        return CubicSpline(times, values, bc_type="natural")
    slopes = (values[1:] - values[:-1]) / (times[1:] - times[:-1])[:, None]
    backward = torch.cat([slopes[:1], slopes])
    return CubicHermiteSpline(times, values, backward)


@pytest.mark.parametrize("kind", ["cubic", "hermite"])
def test_cubics_equal_scipys_and_so_do_their_slopes(kind):
    control, theirs = Control(TIMES, VALUES, kind), scipy_of(kind, TIMES, VALUES)
    t = torch.linspace(0, 5, 83, dtype=F64)
    assert torch.allclose(control(t), torch.from_numpy(theirs(t)), atol=1e-13)
    assert torch.allclose(control.derivative(t), torch.from_numpy(theirs(t, 1)), atol=1e-13)


def test_hermite_does_not_see_the_values_after_the_next_knot():
    late = VALUES.clone()
    late[4] += 100.0
    t = torch.linspace(0, 3, 31, dtype=F64)
    assert torch.equal(Control(TIMES, late, "hermite")(t), Control(TIMES, VALUES, "hermite")(t))
    assert not torch.allclose(Control(TIMES, late, "cubic")(t), Control(TIMES, VALUES, "cubic")(t))


def test_linear_and_hold_between_knots():
    linear, hold = Control(TIMES, VALUES), Control(TIMES, VALUES, "hold")
    assert torch.allclose(linear(1.75), (VALUES[1] + VALUES[2]) / 2)
    assert torch.allclose(linear.derivative(1.75), (VALUES[2] - VALUES[1]) / 1.5)
    assert torch.equal(hold(1.75), VALUES[1])
    assert not hold.derivative(1.75).any()


@pytest.mark.parametrize("kind", KINDS)
def test_knots_are_met_and_beyond_the_ends_nothing_changes(kind):
    control = Control(TIMES, VALUES, kind)
    assert torch.equal(control(TIMES), VALUES)
    assert torch.equal(control(torch.tensor([-7.0, 99.0])), VALUES[[0, -1]])
    assert not control.derivative(torch.tensor([-7.0, 99.0])).any()
    # At the last knot the slope is that of the last piece, where a solve over the knots ends.
    assert control.derivative(5.0).any() == (kind != "hold")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_both_sides_of_a_jump_are_told_apart_in_the_dtype_of_t(dtype):
    knots = [0.1, 0.7, 3.3]
    control = Control(knots, [1.0, 2.0, 3.0], "hold")
    for k, knot in enumerate(knots):
        for direction in (1.0, -1.0):
            sides = [
                torch.tensor(t, dtype=F64).to(dtype) for t in neighbours(knot, dtype, direction)
            ]
            early, late = sides if direction > 0 else sides[::-1]
            assert control(late) == k + 1
            assert control(early) == max(k, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_knots_that_a_dtype_cannot_tell_apart_do_no_harm(kind):
    control = Control([0.0, 1000.0, 1000.1], [0.0, 1.0, 2.0], kind)
    for t in (999.0, 1000.0, 1001.0):
        value = control(torch.tensor(t, dtype=torch.float16))
        assert torch.isfinite(value)
        assert torch.isfinite(control.derivative(torch.tensor(t, dtype=torch.float16)))
    assert control(torch.tensor(1000.0, dtype=torch.float16)) == 2.0
    assert control(torch.tensor(2000.0, dtype=torch.float16)) == 2.0


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_shared_and_per_sample(kind):
    values = torch.randn(3, 5, 2, dtype=F64)
    one, many = torch.tensor(1.3, dtype=F64), torch.tensor([0.2, 1.3, 4.0], dtype=F64)
    rows = [Control(TIMES, v, kind) for v in values]
    shared = Control(TIMES, values, kind)
    own = Control(TIMES.expand(3, 5), values, kind)
    assert rows[0](one).shape == (2,)
    assert rows[0](many).shape == (3, 2)
    for control in (shared, own):
        assert control.per_sample
        for evaluate in ("forward", "derivative"):
            expected = torch.stack([getattr(row, evaluate)(one) for row in rows])
            assert torch.allclose(getattr(control, evaluate)(one), expected)
            each = [getattr(row, evaluate)(t) for row, t in zip(rows, many, strict=True)]
            assert torch.allclose(getattr(control, evaluate)(many), torch.stack(each))
    assert Control(TIMES, VALUES[:, 0], kind)(one).shape == ()


@pytest.mark.filterwarnings("error")
def test_one_time_spread_over_the_samples_is_taken_without_a_warning():
    spread = torch.tensor(1.3).expand(3)
    for times in (TIMES, TIMES.expand(3, 5)):
        control = Control(times, torch.randn(3, 5))
        assert torch.equal(control(spread), control(torch.tensor(1.3)))


@pytest.mark.parametrize("kind", KINDS)
def test_padded_rows_are_as_long_as_their_knots(kind):
    nan = math.nan
    times = torch.tensor([[0.0, 1.0, 2.0, 4.0], [0.5, 3.0, 4.5, nan], [1.0, nan, nan, nan]])
    values = torch.randn(3, 4, dtype=F64)
    values[times.isnan()] = nan
    values.requires_grad_()
    control = Control(times, values, kind)
    for t in (-1.0, 0.7, 1.0, 3.3, 4.5, 9.0):
        for row, count in enumerate((4, 3, 1)):
            alone = Control(times[row, :count], values[row, :count].detach(), kind)
            assert torch.allclose(control(t)[row], alone(t))
            assert torch.allclose(control.derivative(t)[row], alone.derivative(t))
    (grad,) = torch.autograd.grad(control(3.3).sum() + control.derivative(3.3).sum(), values)
    assert torch.isfinite(grad).all()
    assert not grad[times.isnan()].any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_values_and_time(kind):
    values = VALUES.clone().requires_grad_()
    t = torch.tensor([0.3, 1.7, 2.9, 4.2], dtype=F64, requires_grad=True)
    for method in ("forward", "derivative"):
        call = lambda v, s, method=method: getattr(Control(TIMES, v, kind), method)(s)
        assert torch.autograd.gradcheck(call, (values, t))
        if kind != "hold":
            assert torch.autograd.gradgradcheck(call, (values, t))


@pytest.mark.parametrize("kind", KINDS)
def test_function_transforms_go_through(kind):
    value = lambda v: Control(TIMES, v, kind)(1.7)
    jacobian = torch.func.jacrev(value)(VALUES)
    pushed = torch.func.jvp(value, (VALUES,), (VALUES.flip(0),))[1]
    assert torch.allclose(pushed, torch.einsum("ikj,kj->i", jacobian, VALUES.flip(0)))
    assert torch.allclose(torch.func.jacfwd(value)(VALUES), jacobian)


def test_a_trained_spline_follows_its_values_and_is_differentiated_again_and_again():
    control = Control(TIMES, torch.nn.Parameter(VALUES.clone()), "cubic")
    with torch.no_grad():
        control(1.7)
    optimizer = torch.optim.SGD(control.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        control(1.7).square().sum().backward()
        optimizer.step()
        anew = Control(TIMES, control.values.detach().clone(), "cubic")
        assert torch.equal(control(1.7), anew(1.7))
    assert list(control.state_dict()) == ["values"]


def test_complex_values_are_interpolated_part_by_part():
    values = torch.complex(VALUES[:, 0], VALUES[:, 1])
    for kind in KINDS:
        control = Control(TIMES, values, kind)
        parts = Control(TIMES, VALUES, kind)(1.7)
        assert torch.allclose(torch.view_as_real(control(1.7)), parts)


def test_it_is_a_module_that_keeps_its_knots_exact():
    net = torch.nn.Module()
    net.input = Control([0.1, 0.2], torch.tensor([1.0, 2.0]))
    net.half()
    assert net.input.values.dtype is torch.float16
    assert net.input.knots.dtype is F64
    assert net.input(0.1) == 1.0
    assert net.input(0.15).item() == pytest.approx(1.5, abs=1e-3)
    net.double()
    assert net.input(0.175).item() == pytest.approx(1.75, abs=1e-12)
    assert not net.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles(kind):
    trained = Control(TIMES, torch.nn.Parameter(VALUES.clone()), kind)
    trained(1.7)
    for again in (copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):
        assert torch.equal(again(1.7), trained(1.7))
        assert again.values is not trained.values


REFUSED = {
    "a kind": ((TIMES, VALUES, "spline"), {}, "hold, linear, cubic, hermite"),
    "falling": (([1.0, 0.0], [1.0, 2.0]), {}, "rises"),
    "twice": (([1.0, 1.0], [1.0, 2.0]), {}, "rises"),
    "unknown time": (([0.0, math.nan], [1.0, 2.0]), {}, "not finite"),
    "hole in a row": (([[0.0, math.nan, 1.0]], [[1.0, 2.0, 3.0]]), {}, "at their end"),
    "empty row": (([[0.0], [math.nan]], [[1.0], [2.0]]), {}, "not finite"),
    "missing": (([0.0, 1.0], [1.0, math.nan]), {}, "1 of 2 knots"),
    "too few": (([0.0, 1.0], [1.0]), {}, "got [1]"),
    "two ways": (([0.0, 1.0], [[1.0, 2.0], [3.0, 4.0]]), {}, "per_sample=True"),
    "not shared": (([0.0, 1.0], [[1.0, 2.0]]), {"per_sample": False}, "per_sample=False"),
    "other rows": (([[0.0, 1.0]], [[1.0, 2.0], [1.0, 2.0]]), {}, "[B, K, ...]"),
    "no values": (([0.0], "one"), {}, "values is a tensor"),
    "no times": (("one", [1.0]), {}, "times is a tensor"),
    "trained times": ((TIMES.clone().requires_grad_(), VALUES), {}, "no gradient"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    arguments, options, words = REFUSED[case]
    with pytest.raises(ArgumentError) as caught:
        Control(*arguments, **options)
    assert words in str(caught.value)


def test_square_values_are_read_as_they_are_said_to_be():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert Control([0.0, 1.0], values, "hold", per_sample=True)(0.0).tolist() == [1.0, 3.0]
    assert Control([0.0, 1.0], values, "hold", per_sample=False)(0.0).tolist() == [1.0, 2.0]


def test_as_many_times_as_samples():
    own = Control(TIMES, torch.zeros(3, 5))
    with pytest.raises(ArgumentError, match=r"\[3\] times, one a sample; got \[2\]"):
        own(torch.zeros(2))


# Solving with them


def forced(t, y):
    return -y + MEALS(t)


def answer(t):
    """y' = -y + u with u held, from 0."""
    y, ends = 0.0, [*TIMES.tolist()[1:], math.inf]
    for start, end, u in zip(TIMES.tolist(), ends, VALUES[:, 0].tolist(), strict=True):
        length = min(end, t) - start
        if length > 0:
            y = u + (y - u) * math.exp(-length)
    return y


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_knots_become_jump_times_and_save_rejections_and_errors(dtype, gradient):
    y0 = torch.zeros(1, dtype=dtype)
    f = lambda t, y: -y + MEALS(t).to(y)
    options = {"rtol": 1e-6, "atol": 1e-6, "gradient": gradient}
    with_knots = solve(f, y0, [0.0, 6.0], **options)
    said = solve(f, y0, [0.0, 6.0], jump_times=MEALS.knots, **options)
    assert torch.equal(with_knots.ys, said.ys)
    assert with_knots.ys[-1].item() == pytest.approx(answer(6.0), abs=3e-6)
    # The same input, out of sight.
    hidden = Hidden(MEALS)
    without = solve(lambda t, y: -y + hidden(t).to(y), y0, [0.0, 6.0], **options)
    assert with_knots.stats.rejected < without.stats.rejected
    assert 2 * with_knots.stats.f_calls < without.stats.f_calls


class Hidden:
    """Gives an input's values without holding it where it is looked for."""

    __slots__ = ("call",)

    def __init__(self, control):
        self.call = (control,)

    def __call__(self, t):
        return self.call[0](t)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_a_solve_is_differentiated_in_the_values(gradient):
    values = VALUES[:, 0].clone().requires_grad_()
    control = Control(TIMES, values, "hold")
    y0 = torch.zeros(1, dtype=F64)
    options = {"rtol": 1e-9, "atol": 1e-9, "gradient": gradient}
    f = lambda t, y, u: -y + u(t)
    y = solve(f, y0, [0.0, 6.0], jump_times=control.knots, args=(control,), **options).ys[-1]
    (grad,) = torch.autograd.grad(y.sum(), values)
    edges = torch.tensor([*TIMES.tolist(), 6.0], dtype=F64) - 6.0
    assert torch.allclose(grad, edges[1:].exp() - edges[:-1].exp(), atol=1e-7)


def test_a_neural_cde_is_solved_along_its_path():
    """dy = y dX along X is y(0) exp(X(t) - X(0)), whatever the path."""
    path = Control(TIMES, VALUES[:, :1], "cubic")
    f = lambda t, y: y * path.derivative(t)
    y = solve(f, torch.ones(1, dtype=F64), [0.0, 5.0], rtol=1e-9, atol=1e-9,
              jump_times=path.knots).ys[-1]  # fmt: skip
    assert torch.allclose(y, (VALUES[-1, :1] - VALUES[0, :1]).exp(), rtol=1e-7)


def test_samples_with_inputs_and_steps_of_their_own():
    """Each sample as it is alone, also where another's solve has ended long before."""
    nan = math.nan
    times = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, nan], [0.0, 3.0, 4.0]], dtype=F64)
    values = torch.tensor([[1.0, 3.0, 0.0], [2.0, 1.0, nan], [1.0, 5.0, 2.0]], dtype=F64)[..., None]
    spans = torch.tensor([[0.0, 5.0], [0.0, 1.0], [0.0, 4.5]], dtype=F64)
    options = {"rtol": 1e-8, "atol": 1e-8}
    control = Control(times, values, "hold")
    f = lambda t, y: -y + control(t)
    y0 = torch.zeros(3, 1, dtype=F64)
    together = solve(f, y0, spans, stepping="per_sample", jump_times=knots_of(f), **options)
    for row, count in enumerate((3, 2, 3)):
        alone = Control(times[row, :count], values[row, :count], "hold")
        own = solve(lambda t, y, u: -y + u(t), y0[row], spans[row], args=(alone,),
                    jump_times=alone.knots, **options)  # fmt: skip
        assert torch.allclose(together.ys[-1, row], own.ys[-1], atol=1e-10)
        assert together.stats.rejected[row] == own.stats.rejected


# Finding them


class Plain:
    def __init__(self, control):
        self.control = control

    def __call__(self, t, y):
        return -y + self.control(t)

    def field(self, t, y):
        return self(t, y)


class Module(torch.nn.Module):
    def __init__(self, control):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Identity())
        self.inner[0].control = control

    def forward(self, t, y):
        return -y + self.inner[0].control(t)


def closing_over(control):
    return lambda t, y: sum(control(s) for s in [t]) - y


def by_default(control):
    def f(t, y, *, u=control):
        return -y + u(t)

    return f


def appearing(t):
    return MEALS(t)


def by_another_function(t, y):
    return -y + appearing(t)


WAYS = {
    "global of a function called": lambda c: by_another_function,
    "global": lambda c: forced,
    "closure": closing_over,
    "closure of a closure": lambda c: closing_over(closing_over(c)),
    "default": by_default,
    "object": Plain,
    "method": lambda c: Plain(c).field,
    "object of an object": lambda c: Plain(Plain(c)),
    "closed-over object": lambda c: closing_over(Plain(c)),
    "module": Module,
    "module's list": lambda c: Module([c]),
    "method of a module": lambda c: Module(c).forward,
    "closed-over module": lambda c: closing_over(Module(c)),
    "partial": lambda c: functools.partial(lambda t, y, u: -y + u(t), u=c),
    "list": lambda c: closing_over([{"u": c}]),
}


@pytest.mark.parametrize("way", WAYS)
def test_controls_are_found_where_f_holds_them(way):
    assert controls_in(WAYS[way](MEALS)) == [MEALS]


def test_controls_are_found_in_args_once():
    assert controls_in(lambda t, y, u: y, ({"meals": [MEALS]}, MEALS)) == [MEALS]
    assert controls_in(lambda t, y, u: y, (Module(MEALS), 3.0, TIMES)) == [MEALS]
    assert knots_of(lambda t, y: -y) is None


def test_an_empty_cell_and_a_circle_are_no_obstacle():
    if len(KINDS) < 4:
        later = 1.0

    def f(t, y):
        return later * y

    owner = Plain(None)
    owner.control = owner
    assert controls_in(f) == []
    assert controls_in(owner) == []


def test_knots_of_several_inputs_are_put_together():
    other = Control([0.5, 1.0], [0.0, 0.0])
    shared = knots_of(forced, (other,))
    assert shared.tolist() == [0.0, 0.5, 1.0, 2.5, 3.0, 5.0]
    assert shared.dtype is F64
    rows = Control([[0.0, 2.0], [1.0, math.nan]], torch.zeros(2, 2, 1))
    mixed = knots_of(lambda t, y, *u: y, (other, rows))
    assert mixed.shape == (2, 4)
    assert mixed[0].tolist() == [0.0, 0.5, 1.0, 2.0]
    assert mixed[1, :3].tolist() == [0.5, 1.0, 1.0]
    assert mixed[1, 3].isnan()
    with pytest.raises(ArgumentError, match="for 2 and for 3 samples"):
        knots_of(lambda t, y, *u: y, (rows, Control([[0.0]] * 3, [[0.0]] * 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_of_inputs_is_empty(kind):
    assert Control(TIMES, torch.zeros(0, 5, 2), kind)(1.0).shape == (0, 2)
