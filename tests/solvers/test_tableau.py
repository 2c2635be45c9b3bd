"""A table with a wrong number in it cannot be built; the right ones have their exact orders."""

from __future__ import annotations

from fractions import Fraction as Q

import pytest
import torch

import ode_core
from ode_core import ArgumentError, Tolerance
from ode_solvers import RungeKutta, Tableau
from ode_solvers.kernels.choose import named
from ode_solvers.trees import Weights, density, trees, vertices
from tests.problems import F64, lotka_volterra

EXPLICIT = [
    name for name, r in ode_core.solvers.items() if r.target.startswith("ode_solvers.methods:")
]

RK4 = dict(
    a=[[], [Q(1, 2)], [0, Q(1, 2)], [0, 0, 1]],
    b=[Q(1, 6), Q(1, 3), Q(1, 3), Q(1, 6)],
    c=[0, Q(1, 2), Q(1, 2), 1],
    order=4,
    name="mine",
)


def test_the_number_of_rooted_trees_is_cayleys():
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    bushy, tall = ((), (), ()), ((((),),),)
    assert (vertices(bushy), density(bushy)) == (4, 4)
    assert (vertices(tall), density(tall)) == (4, 24)


WRONG = [
    (
        dict(c=[0, Q(1, 2), Q(1, 3), 1]),
        r"row 2 .*'mine' sums to 0\.5 but its node is 0\.33",
    ),
    (dict(b=[Q(1, 6), Q(1, 3), Q(1, 3), Q(1, 3)]), "order condition of order 1"),
    (dict(b=[Q(1, 4)] * 4), "order condition of order 3: .*declared order is 4"),
    (dict(order=5), "order condition of order 5"),
    (dict(b_error=[Q(1, 6), 0, 0, 0]), "sum to 0.1666"),
    (dict(b_error=[Q(1, 6), Q(-1, 6), 0, 0]), "embedded weights .* order 2"),
    (dict(b_error=[0.0, 0.0]), "has 2 error weights; give 4, or one more"),
    (dict(a=[[], [Q(1, 2)], [0, Q(1, 2)]]), "3 rows, 4 weights and 4 nodes"),
    (dict(a=[[], [0, Q(1, 2)], [0, Q(1, 2)], [0, 0, 1]]), "on or right of the diagonal"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_wrong_table_is_refused_with_the_place(change, said):
    with pytest.raises(ArgumentError, match=said):
        Tableau(**(RK4 | change))


def test_tsit5_advanced_with_its_embedded_weights_is_refused():
    """A well-known library ships this table; every row sum and weight sum is right in it."""
    table = ode_core.solvers.create("tsit5").tableau
    embedded = [b - e for b, e in zip(table.b, table.b_error, strict=True)]
    with pytest.raises(ArgumentError, match="order condition of order 5"):
        Tableau(table.a, embedded, table.c, 5, "tsit5_wrong")


def test_every_single_digit_of_dopri5_matters():
    table = ode_core.solvers.create("dopri5").tableau
    for stage, row in enumerate(table.a):
        for column in range(len(row)):
            if row[column] == 0.0:
                continue
            rows = [list(r) for r in table.a]
            rows[stage][column] += 1e-9
            nodes = [sum(r) for r in rows]
            with pytest.raises(ArgumentError):
                Tableau(rows, table.b, nodes, 5, "wrong", b_error=table.b_error)


@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "ralston", "rk4", "rk4_38"])
def test_low_order_tables_hold_in_exact_fractions_and_no_higher(name):
    table = ode_core.solvers.create(name).tableau
    exact = [[Q(x).limit_denominator(1000) for x in row] for row in table.a]
    b = [Q(x).limit_denominator(1000) for x in table.b]

    def phi(tree):
        value = [Q(1)] * len(b)
        for child in tree:
            inner = phi(child)
            value = [
                v * sum((a * x for a, x in zip(row, inner, strict=False)), Q(0))
                for v, row in zip(value, exact, strict=True)
            ]
        return value

    def residuals(order):
        return [
            sum(x * y for x, y in zip(b, phi(tree), strict=True)) - Q(1, density(tree))
            for tree in trees(order)
        ]

    for order in range(1, table.order + 1):
        assert not any(residuals(order))
    assert any(residuals(table.order + 1))


# Exact rational results of one step of size 1/10 on Lotka-Volterra from (1, 1).
ONE_STEP = {
    "euler": (1.05, 0.8),
    "midpoint": (1.0615, 0.82225),
    "heun": (1.06175, 0.822),
    "ralston": (1.061583333333333333, 0.8221666666666666667),
    "bosh3": (1.061056623958333333333333, 0.8210433760416666666666667),
    "rk4": (1.061077148924612501464844, 0.8210864728722624985351562),
    "rk4_38": (1.061078177653042805803231, 0.8210864453330683053078799),
    "dopri5": (1.061078281639347996071236, 0.8210842278725672423647561),
}


@pytest.mark.parametrize("name", ONE_STEP)
@pytest.mark.parametrize("kernel", ["reference", "cpu", "triton"])
def test_one_step_is_the_exact_rational(name, kernel):
    solver = ode_core.solvers.create(name, kernel=kernel)
    y0 = torch.ones(2, dtype=F64)
    f = lambda t, y: lotka_volterra(t, y)
    step = solver.step(f, 0.0, 0.1, y0, solver.init(f, 0.0, y0), None)
    assert step.y.tolist() == pytest.approx(ONE_STEP[name], rel=5e-16)


def test_dopri5s_error_estimate_is_the_published_one():
    """(5.5e-8, 1.4e-7) on that step; Shampine's variant would be two thirds of it."""
    table = ode_core.solvers.create("dopri5").tableau
    y0 = torch.ones(2, dtype=F64)
    f = lambda t, y: lotka_volterra(t, y)
    solver = ode_core.solvers.create("dopri5")
    ks = solver.step(f, 0.0, 0.1, y0, solver.init(f, 0.0, y0), None).dense
    zero = torch.zeros(2, dtype=F64)
    error = named("reference").combine(zero, 0.1, table.error_rows[0], ks).abs()
    assert error.tolist() == pytest.approx([5.513434112322377e-8, 1.422090302132849e-7], rel=1e-8)
    assert Tolerance(0.0, 1.0).norm(error, y0, y0) == pytest.approx(1.0784e-7, rel=1e-3)


@pytest.mark.parametrize("name", EXPLICIT)
@pytest.mark.parametrize("kernel", ["cpu", "triton"])
def test_the_running_solver_has_the_tables_numbers(name, kernel):
    """An f that answers its i-th call with the i-th unit vector reads the table off a step."""
    solver = ode_core.solvers.create(name, kernel=kernel)
    table = solver.tableau
    size = table.stages + 1
    seen = []

    def f(t, y):
        seen.append((t, y.clone()))
        return torch.eye(size, dtype=F64)[len(seen) - 1]

    zero = torch.zeros(size, dtype=F64)
    step = solver.step(f, 0.0, 1.0, zero, solver.init(f, 0.0, zero), None)
    assert step.y[: table.stages].tolist() == pytest.approx(table.b, abs=1e-16)
    for (t, y), row, node in zip(seen, table.a, table.c, strict=False):
        assert t == node
        assert y[: len(row)].tolist() == pytest.approx(row, rel=2e-16, abs=1e-16)


def test_a_strangers_table_is_a_solver():
    solver = RungeKutta(Tableau(**RK4))
    solution = ode_core.solve(lambda t, y: -y, torch.ones(1, dtype=F64), [0.0, 1.0],
                              solver=solver, dt=0.1)  # fmt: skip
    assert solution.ys[-1].item() == pytest.approx(0.36787977, abs=1e-8)


def test_weights_of_the_dense_output_verify_at_any_theta():
    for name, order in (("dopri5", 4), ("tsit5", 4), ("dopri8", 7)):
        table = ode_core.solvers.create(name).tableau
        assert table.dense.order == order
        rows = [*table.with_end_rows(), *table.dense.a]
        matrix = torch.zeros(len(rows), len(rows), dtype=F64)
        for index, row in enumerate(rows):
            matrix[index, : len(row)] = torch.tensor(row, dtype=F64)
        phi = Weights(matrix.numpy())
        for theta in (0.1, 0.37, 0.9):
            weights = torch.tensor(table.dense.weights(theta), dtype=F64).numpy()
            for size in range(1, order + 1):
                for tree in trees(size):
                    wanted = theta**size / density(tree)
                    assert weights @ phi(tree) == pytest.approx(wanted, abs=1e-11)
