"""Adams methods: coefficients, orders, refinement, cost, carry, gradients and rows of a batch."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch

import ode_core
from ode_core import ArgumentError, FixedSteps, PIDController, Tolerance, solve
from ode_core.tolerance import SampleTolerance
from ode_solvers.multistep.adams import adams_bashforth, adams_moulton
from ode_solvers.multistep.differences import growth, integrals
from ode_solvers.multistep.order import choose
from tests.problems import F64, Circle, lotka_volterra, oscillator, van_der_pol
from tests.solvers.rows import alone, march, ragged

MAKE = {"adams_bashforth": adams_bashforth, "adams_moulton": adams_moulton}
every = pytest.mark.parametrize("name", MAKE)


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def test_on_equal_steps_the_weights_are_adamss():
    """gamma_0 to gamma_5 of Hairer, Nørsett, Wanner I, table III.1.1."""
    found = integrals(tensor(0.25)[0], torch.full((5,), 0.25, dtype=F64), tensor(1.0)[0])
    wanted = [1, Fraction(1, 2), Fraction(5, 12), Fraction(3, 8), Fraction(251, 720),
              Fraction(95, 288), Fraction(19087, 60480)]  # fmt: skip
    assert torch.allclose(found, tensor(*map(float, wanted)), rtol=1e-14)
    assert torch.equal(growth(tensor(0.25)[0], torch.full((5,), 0.25, dtype=F64)), torch.ones(6))


@pytest.mark.parametrize("theta", [1.0, 0.3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_on_unequal_steps_polynomials_are_integrated_exactly(theta, sign):
    """Differences built from scratch over unequal nodes, for powers of t up to the highest."""
    h, gaps = sign * 0.7, [sign * gap for gap in (0.5, 0.9, 0.2, 0.4)]
    nodes = [0.0]
    for gap in gaps:
        nodes.append(nodes[-1] - gap)
    weights = integrals(tensor(h)[0], tensor(*gaps), tensor(theta)[0])[:-1]
    weights = weights * growth(tensor(h)[0], tensor(*gaps))
    for power in range(5):
        slopes = [node**power for node in nodes]
        table, phi = list(slopes), [slopes[0]]
        for width in range(1, 5):
            table = [
                (table[i] - table[i + 1]) / (nodes[i] - nodes[i + width])
                for i in range(len(table) - 1)
            ]
            reach = math.prod(nodes[0] - nodes[i] for i in range(1, width + 1))
            phi.append(table[0] * reach)
        found = h * sum(w * p for w, p in zip(weights.tolist(), phi, strict=True))
        assert found == pytest.approx((theta * h) ** (power + 1) / (power + 1), rel=1e-12)


@every
def test_errors_fall_with_every_halving_down_to_round_off(name):
    """y' = -2 t y^2, on which order 12 with a start of order 4 diverges."""
    for order in (2, 3, 4, 5):
        errors = []
        for n in (8, 16, 32, 64, 128, 256, 512, 1024, 2048):
            solver = MAKE[name](order=order)
            end = solve(lambda t, y: -2 * t * y * y, tensor(1.0), [0.0, 1.0], solver=solver,
                        controller=FixedSteps(), dt=1.0 / n).ys[-1]  # fmt: skip
            errors.append(abs(end.item() - 0.5))
            if n >= 256 and order < 5:
                break
        pairs = itertools.pairwise(errors)
        assert all(later < max(0.6 * earlier, 1e-14) for earlier, later in pairs)


@every
@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_the_order_asked_for_is_the_order_seen(name, order):
    problem, errors = Circle(0.5), []
    for n in (64, 128, 256):
        end = solve(problem, problem.y0, [0.0, 3.0], solver=MAKE[name](order=order),
                    controller=FixedSteps(), dt=3.0 / n).ys[-1]  # fmt: skip
        errors.append((end - problem.exact(3.0)).norm().item())
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.2)


@every
def test_the_order_holds_on_unequal_steps(name):
    problem, errors = Circle(0.5), []
    for n in (100, 200, 400):
        nodes = [3.0 * (i + 0.2 * (i % 2)) / n for i in range(n)] + [3.0]
        end = solve(problem, problem.y0, [0.0, 3.0], solver=name,
                    controller=FixedSteps(grid=nodes)).ys[-1]  # fmt: skip
        errors.append((end - problem.exact(3.0)).norm().item())
    assert math.log2(errors[1] / errors[2]) == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize(("name", "calls"), [("adams_bashforth", 1), ("adams_moulton", 2)])
def test_what_a_step_costs(name, calls):
    """Six evaluations in each of the first steps, one at the very start."""
    stats = solve(lambda t, y: -y, tensor(1.0), [0.0, 1.0], solver=name, dt=0.01,
                  controller=FixedSteps()).stats  # fmt: skip
    first = 5 - (name == "adams_moulton") - 1
    assert stats.f_calls == 1 + 6 * first + calls * (100 - first)


def test_a_rejected_correction_is_not_evaluated_again():
    f = lambda t, y: torch.stack([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])])
    solution = solve(f, tensor(1.0, 3.0), [0.0, 20.0], solver="adams_moulton", rtol=1e-3,
                     atol=1e-3, record_steps=True)  # fmt: skip
    accepted = solution.steps.accepted
    first = 1 + accepted.nonzero()[2].item()
    later = accepted[first:]
    assert int((~later).sum()) > 0
    evaluations = 2 * int(later.sum()) + int((~later).sum())
    assert solution.stats.f_calls == 2 + 6 * first + evaluations


@every
def test_the_polynomial_of_a_step_ends_where_the_step_does(name):
    problem, solver = Circle(0.5), MAKE[name]()
    f = lambda t, y: problem(torch.as_tensor(t, dtype=F64), y)
    y, carry = problem.y0, solver.init(f, 0.0, problem.y0)
    for i in range(8):
        t0, t1 = 0.1 * i, 0.1 * (i + 1)
        step = solver.step(f, t0, t1, y, carry, None)
        at = solver.interpolant(f, t0, t1, y, step)
        assert torch.allclose(at(1e-12), y, rtol=0, atol=1e-10)
        assert torch.allclose(at(1.0 - 1e-12), step.y, rtol=0, atol=1e-10)
        y, carry = step.y, step.carry


def kepler(t, y):
    return torch.cat([y[2:], -y[:2] / y[:2].square().sum() ** 1.5])


# y(20) to 18 digits, from the DETEST set.
DETEST = {
    "A3": (lambda t, y: y * torch.cos(t), [1.0], [2.49165027185041452346]),
    "B1": (
        lambda t, y: torch.stack([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])]),
        [1.0, 3.0],
        [0.676187600857660660726, 0.186081609964002980075],
    ),
    "D3": (
        kepler,
        [0.5, 0.0, 0.0, math.sqrt(3.0)],
        [-0.578043295303536123275, 0.863384000919419280134, -0.959508373038072735626,
         -0.0650495112671209016772],
    ),
    "E2": (van_der_pol(1.0), [2.0, 0.0], [2.00814976217494859201, -0.0425088752732021469860]),
}  # fmt: skip


@every
@pytest.mark.parametrize("problem", DETEST)
def test_at_tight_tolerances_it_needs_half_of_dopri5s_evaluations(name, problem):
    f, y0, truth = DETEST[problem]
    options = dict(rtol=1e-9, atol=1e-9)
    found = solve(f, tensor(*y0), [0.0, 20.0], solver=name, record_steps=True, **options)
    known = solve(f, tensor(*y0), [0.0, 20.0], solver="dopri5", **options)
    assert found.stats.f_calls < 0.5 * known.stats.f_calls
    assert found.stats.rejected < 0.05 * found.stats.accepted
    error = (found.ys[-1] - tensor(*truth)).abs().max().item()
    # Along the unstable orbits errors grow as they do for any method.
    grown = (known.ys[-1] - tensor(*truth)).abs().max().item()
    assert error < max(100 * 1e-9, 5 * grown)


@every
def test_the_order_rises_and_falls(name):
    """Up to the highest on a smooth stretch, down where the solution begins to decay fast."""
    terms = []

    class Spy:
        def __getattr__(self, attribute):
            return getattr(solver, attribute)

        def step(self, field, t0, t1, y, carry, tolerance):
            terms.append(carry[1][0].item())
            return solver.step(field, t0, t1, y, carry, tolerance)

    solver = MAKE[name]()
    solve(oscillator, tensor(1.0, 0.0), [0.0, 50.0], solver=Spy(), rtol=1e-11, atol=1e-11)
    assert max(terms) >= 8
    terms.clear()
    rate = lambda t, y: -50.0 * (y - torch.cos(t))
    solve(rate, tensor(0.0), [0.0, 3.0], solver=Spy(), rtol=1e-4, atol=1e-4)
    assert min(terms) <= 2


def test_the_controller_is_told_an_error_with_the_root_that_it_takes():
    """Errors 1e-4, 1e-6 and 1 with 2, 3 and 4 terms: 3 terms allow the longest step."""
    errors, terms, known = tensor(1e-3, 2e-5, 1.0), tensor(3.0)[0], tensor(9.0)[0]
    found = choose(errors, terms, known, 12, 5)
    assert found.terms == 3.0
    integral = PIDController(pcoeff=0.0, icoeff=1.0, factor_max=9.0)
    factor = integral.judge(found.error.item(), 5, PIDController().init())[1]
    assert factor == pytest.approx(min(0.9 * (10 * 2e-5) ** (-1 / 4), 1.5))
    raised = choose(tensor(0.4, 0.3, 1e-5), terms, known, 12, 5)
    assert raised.terms == 4.0
    assert choose(tensor(0.4, 0.3, 1e-5), terms, terms, 12, 5).terms == 3.0
    lowered = choose(tensor(0.4, 2.0, 9.0), terms, known, 12, 5)
    assert lowered.terms == 2.0
    assert lowered.error > 1.0
    assert math.isinf(choose(torch.full((3,), math.inf), terms, known, 12, 5).error)


@every
def test_outputs_at_tight_tolerances_are_as_good_as_the_steps(name):
    """High orders take long steps, within which a cubic would be far off."""
    times = torch.linspace(0, 30, 701, dtype=F64)
    solution = solve(oscillator, tensor(1.0, 0.0), times, solver=name, rtol=1e-10, atol=1e-10,
                     dense=True, record_steps=True)  # fmt: skip
    exact = lambda t: torch.stack([t.cos(), -t.sin()], -1)
    kept = solution.steps.accepted
    ends = (solution.steps.t + solution.steps.dt)[kept]
    at_steps = (solution.interpolate(ends) - exact(ends)).abs().max().item()
    between = (solution.ys - exact(times)).abs().max().item()
    assert between <= max(1e-9, 2 * at_steps)


@every
@pytest.mark.parametrize("tolerance", [1e-5, 1e-10])
def test_checkpoint_is_direct_on_chosen_steps_and_orders(name, tolerance):
    weight = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.0, 1.2], dtype=F64, requires_grad=True)
    f = lambda t, y: weight * lotka_volterra(t, y) + torch.sin(3 * t)
    found = []
    for gradient in ("direct", "checkpoint"):
        ys = solve(f, y0, [0.0, 0.7, 2.1, 3.0], solver=name, gradient=gradient, rtol=tolerance,
                   atol=tolerance, jump_times=[1.5]).ys  # fmt: skip
        found.append(torch.autograd.grad(ys.square().sum(), [weight, y0]))
    assert all(torch.allclose(a, b, rtol=1e-11) for a, b in zip(*found, strict=True))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128, torch.bfloat16])
def test_other_dtypes(name, dtype):
    turn = 1j if dtype.is_complex else -1.0
    y0 = torch.ones(3, dtype=dtype)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    ys = solve(lambda t, y: turn * y, y0, [0.0, 0.5, 1.0], solver=name, rtol=tolerance,
               atol=tolerance).ys  # fmt: skip
    assert ys.dtype == dtype
    truth = torch.exp(turn * torch.tensor([0.5, 1.0], dtype=F64))
    assert (ys[1:, 0] - truth).abs().max() < 10 * tolerance


def timed(t, y):
    turn = torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1)
    return turn + torch.cos(torch.as_tensor(t, dtype=F64))[..., None] * y


STARTS = torch.tensor([[1.0, 0.3], [0.2, -0.7], [2.0, 0.1]], dtype=F64)


@every
def test_a_row_in_a_batch_is_the_row_alone(name):
    solver = MAKE[name]()
    together, _ = march(solver, timed, STARTS, ragged())
    for row, grid in enumerate(ragged()):
        moving = grid[: len(grid.unique())] if row == 2 else grid
        expected = alone(solver, timed, STARTS[row], moving)
        assert torch.allclose(together[row], expected, rtol=0, atol=1e-13)


@every
def test_rows_choose_errors_orders_and_outputs_as_they_do_alone(name):
    """The last of eight steps, taken with a tolerance, together and each row on its own."""
    solver, grids = MAKE[name](), ragged(16)[:2]
    tolerance = Tolerance(1e-5, 1e-7)
    y, carry = march(solver, timed, STARTS[:2], grids[:, :9])
    step = solver.step(timed, grids[:, 8], grids[:, 9], y, carry, SampleTolerance(1e-5, 1e-7))
    theta = tensor(0.3, 0.8)
    between = solver.interpolant(timed, grids[:, 8], grids[:, 9], y, step)(theta)
    for row in range(2):
        t0, t1 = grids[row, 8].item(), grids[row, 9].item()
        own = tuple(part[row] for part in carry)
        single = solver.step(timed, t0, t1, y[row], own, tolerance)
        assert step.error[row].item() == pytest.approx(single.error, rel=1e-6)
        assert torch.allclose(step.y[row], single.y, rtol=0, atol=1e-14)
        kept = step.carry if single.error <= 1 else step.retry
        mine = single.carry if single.error <= 1 else single.retry
        assert torch.equal(kept[1][row], mine[1])
        at = solver.interpolant(timed, t0, t1, y[row], single)(theta[row].item())
        assert torch.allclose(between[row], at, rtol=0, atol=1e-14)


@every
def test_rows_that_start_and_rows_that_go_on_wait_for_each_other(name):
    solver, grids, asked = MAKE[name](), ragged()[:2], []
    y, old = march(solver, timed, STARTS[:2], grids[:, :8])
    young = solver.init(timed, grids[:, 7], y)
    carry = tuple(torch.stack([a[0], b[1]]) for a, b in zip(old, young, strict=True))

    def f(t, state):
        asked.append(state)
        return timed(t, state)

    step = solver.step(f, grids[:, 7], grids[:, 8], y, carry, None)
    assert not torch.equal(step.y[0], y[0])
    assert not torch.equal(step.y[1], y[1])
    # Each call is for one of the rows; the other is where the step began.
    assert all(torch.equal(state[0], y[0]) or torch.equal(state[1], y[1]) for state in asked)


@every
def test_a_row_without_a_step_comes_out_unchanged_young_and_old(name):
    solver = MAKE[name]()
    for steps in (1, 7):
        y, carry = march(solver, timed, STARTS, ragged()[:, : steps + 1])
        t0 = ragged()[:, steps]
        t1 = t0.clone()
        t1[0] -= 0.05
        step = solver.step(timed, t0, t1, y, carry, None)
        assert torch.equal(step.y[1:], y[1:])
        assert not torch.equal(step.y[0], y[0])
        for after, before in zip(step.carry, carry, strict=True):
            assert torch.equal(after[1:], before[1:])


@every
def test_the_carry_keeps_its_shape(name):
    solver = MAKE[name](most=7)
    y = tensor(1.0, 1.2)
    carry = solver.init(lotka_volterra, 0.0, y)
    for i in range(9):
        step = solver.step(lotka_volterra, 0.01 * i, 0.01 * (i + 1), y, carry, None)
        assert [(x.shape, x.dtype) for x in step.carry] == [((7, 2), F64), ((7,), F64)]
        y, carry = step.y, step.carry


@pytest.mark.parametrize(("name", "order"), [("adams_bashforth", 6), ("adams_bashforth", 0),
                                             ("adams_moulton", 1)])  # fmt: skip
def test_orders_that_the_start_cannot_serve_are_refused(name, order):
    with pytest.raises(ArgumentError, match="takes given steps with an order from"):
        ode_core.solvers.create(name, order=order)


@pytest.mark.parametrize("most", [1, 13])
def test_more_terms_than_there_are_coefficients_for_are_refused(most):
    with pytest.raises(ArgumentError, match="`most` terms, from 5 to 12"):
        adams_bashforth(most=most)


@every
@pytest.mark.parametrize("tolerance", [1e-5, 1e-9])
def test_samples_solved_together_are_the_samples_alone(name, tolerance):
    """Three spans, one backwards: the same states from as many steps and evaluations."""
    times = torch.tensor([[0.0, 0.5, 3.0], [2.0, 1.0, 0.0], [0.0, 0.1, 0.2]], dtype=F64)
    options = dict(solver=name, rtol=tolerance, atol=tolerance)
    together = solve(timed, STARTS, times, stepping="per_sample", **options)
    for row in range(3):
        one = lambda t, y: timed(t[None], y[None])[0]
        single = solve(one, STARTS[row], times[row], **options)
        assert torch.allclose(together.ys[:, row], single.ys, rtol=0, atol=1e-11)
        assert together.stats.accepted[row] == single.stats.accepted
        # Some rows still start while others go on: those calls are for both.
        assert together.stats.f_calls[row] <= 1.3 * single.stats.f_calls


@every
def test_f_is_never_asked_far_from_the_solution(name):
    """Rows that start beside rows that go on: the square root has no value for what is not y."""

    class Root:
        lowest = math.inf

        def __call__(self, t, y):
            self.lowest = min(self.lowest, y.min().item())
            return -2.0 * y.sqrt()

    weight = torch.ones(2, 1, dtype=F64, requires_grad=True)
    f, y0 = Root(), tensor(4.0, 1e-2).view(2, 1)
    times = torch.tensor([[0.0, 1.5], [0.0, 0.08]], dtype=F64)
    ys = solve(lambda t, y: weight * f(t, y), y0, times, solver=name, stepping="per_sample",
               rtol=1e-8, atol=1e-10).ys[-1]  # fmt: skip
    wanted = (y0.sqrt()[:, 0] - times[:, 1]) ** 2
    assert torch.allclose(ys[:, 0], wanted, atol=1e-6)
    assert torch.autograd.grad(ys.sum(), weight)[0].isfinite().all()
    assert f.lowest > 0.0
