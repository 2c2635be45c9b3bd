"""The transforms of torch.func go through a solve, or say why not."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from ode_core import ArgumentError, FixedSteps, UnsupportedError, solve
from tests.problems import F64, oscillator

FIXED = [
    ("rk4", {"dt": 0.1}),
    ("dopri5", {"controller": FixedSteps(), "dt": 0.1}),
    ("leapfrog", {"dt": 0.1}),
    ("adams_bashforth", {"controller": FixedSteps(), "dt": 0.1}),
]
CHOSEN = [("dopri5", {}), ("adams_moulton", {})]
START = torch.tensor([1.0, 0.5], dtype=F64)


def end_of(solver, options):
    f = lambda t, y: torch.tanh(oscillator(t, y))
    return lambda y: solve(f, y, [0.0, 0.5, 1.0], solver=solver, **options).ys[-1]


@pytest.mark.parametrize(("solver", "options"), [*FIXED, *CHOSEN], ids=str)
def test_derivatives(solver, options):
    end = end_of(solver, options)
    exact = torch.autograd.functional.jacobian(end, START)
    close = lambda found, exact: torch.allclose(found, exact, rtol=1e-10)
    assert close(grad(lambda y: end(y)[0])(START), exact[0])
    assert close(jvp(end, (START,), (torch.ones_like(START),))[1], exact.sum(1))
    assert close(jacrev(end)(START), exact)
    assert close(jacfwd(end)(START), exact)


@pytest.mark.parametrize(("solver", "options"), FIXED, ids=str)
def test_vmap_over_starts_and_parameters(solver, options):
    end = end_of(solver, options)
    starts = torch.stack([START, 2 * START, -START])
    alone = torch.stack([end(y) for y in starts])
    assert torch.allclose(vmap(end)(starts), alone, rtol=1e-12)
    slopes = vmap(grad(lambda y: end(y)[0]))(starts)
    assert torch.allclose(slopes[0], grad(lambda y: end(y)[0])(START))

    def with_rate(rate):
        return solve(lambda t, y: rate * oscillator(t, y), START, [0.0, 1.0], solver=solver,
                     **options).ys[-1]  # fmt: skip

    rates = torch.tensor([0.5, 1.0, 2.0], dtype=F64)
    assert torch.allclose(vmap(with_rate)(rates), torch.stack([with_rate(r) for r in rates]))


@pytest.mark.parametrize(("solver", "options"), CHOSEN, ids=str)
def test_vmap_cannot_follow_steps_that_are_chosen_and_says_so(solver, options):
    with pytest.raises(UnsupportedError, match="looks at values to choose.*stepping='per_sample'"):
        vmap(end_of(solver, options))(torch.stack([START, 2 * START]))


def test_vmap_over_times_is_refused():
    f = lambda t: solve(oscillator, START, t, solver="rk4", dt=0.1).ys[-1]
    with pytest.raises(ArgumentError, match="vmap cannot map over times"):
        vmap(f)(torch.tensor([[0.0, 1.0], [0.0, 2.0]]))


@pytest.mark.parametrize("solver", ["kvaerno5", "implicit_midpoint"])
def test_implicit_solvers_say_that_they_do_not(solver):
    options = {} if solver == "kvaerno5" else {"dt": 0.1}
    with pytest.raises(UnsupportedError, match=f"{solver} does not go through the transforms"):
        jacrev(end_of(solver, options))(START)
