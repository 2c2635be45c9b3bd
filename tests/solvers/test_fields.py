"""Fields that can go whole are ordinary modules everywhere else."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import ode_core
from ode_core import ArgumentError, solve
from ode_solvers.expression import traced
from ode_solvers.fields import ElementwiseField, MLPField
from tests.problems import F64


def lotka(t, y, growth, death):
    prey, hunters = y
    return prey * (growth - hunters), hunters * (prey - death)


def relaxing(t, y, rate):
    return -rate * (y - torch.cos(t))


def fields():
    trained = torch.nn.Parameter(torch.tensor(0.5, dtype=F64))
    return [
        (MLPField(3, (8, 5), "softplus", time=True).double(), 3),
        (ElementwiseField(lotka, size=2, growth=1.1, death=trained), 2),
        (ElementwiseField(relaxing, rate=trained), 4),
    ]


@pytest.mark.parametrize("index", range(3))
def test_every_stepping_solver_and_gradient(index):
    f, size = fields()[index]
    y0 = torch.rand(5, size, dtype=F64, requires_grad=True)
    found = []
    for gradient in ("direct", "symplectic", "adjoint"):
        for stepping in ("shared", "per_sample"):
            ys = solve(f, y0, [0.0, 0.5], gradient=gradient, stepping=stepping, rtol=1e-9,
                       atol=1e-9).ys  # fmt: skip
            found.append(torch.autograd.grad(ys[-1].sum(), (y0, *f.parameters())))
    assert all(torch.allclose(a, b, atol=1e-6) for one in found[1:]
               for a, b in zip(one, found[0], strict=True))  # fmt: skip
    assert solve(f, y0.detach(), [0.0, 0.5], solver="kvaerno5").ys.isfinite().all()
    single = solve(f, y0.detach()[0], [0.0, 0.5], rtol=1e-9, atol=1e-9).ys[-1]
    many = solve(f, y0.detach(), [0.0, 0.5], rtol=1e-9, atol=1e-9).ys[-1, 0]
    assert torch.allclose(single, many, atol=1e-7)


@pytest.mark.parametrize("index", range(3))
def test_they_are_copied_pickled_saved_and_converted(index):
    f, size = fields()[index]
    y = torch.rand(5, size, dtype=F64)
    t = torch.tensor(0.3, dtype=F64)
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert torch.equal(other(t, y), f(t, y))
    with torch.no_grad():
        for x in other.parameters():
            x.add_(1.0)
    other.load_state_dict(f.state_dict())
    assert torch.equal(other(t, y), f(t, y))
    assert f.float()(t.float(), y.float()).dtype == torch.float32


def test_a_number_is_as_exact_as_it_was_written():
    f = ElementwiseField(relaxing, rate=0.1)
    assert float(f.rate) == 0.1
    assert f(torch.tensor(0.0), torch.ones(2, 3)).dtype == torch.float32


def test_the_field_is_its_function_and_the_time_is_each_samples_own():
    f = ElementwiseField(relaxing, rate=2.0)
    t, y = torch.tensor([0.0, 1.0], dtype=F64), torch.ones(2, 3, dtype=F64)
    assert torch.allclose(f(t, y), -2.0 * (y - torch.cos(t)[:, None]))
    g = MLPField(3, 4, time=True).double()
    assert torch.allclose(g(t, y)[1], g(t[1], y[1]))


def test_equal_operations_are_one():
    def twice(t, y):
        return torch.sin(2.0 * y) + torch.sin(2.0 * y)

    forward, _ = traced(twice, None, ())
    assert [name for name, *_ in forward.code] == ["number", "mul", "sin", "add"]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda t, y: y if y > 0 else -y, "torch.where"),
        (lambda t, y: torch.erf(y), "knows no 'erf'"),
        (lambda t, y: y * torch.ones(3), "named parameters"),
        (lambda t, y: sum(y), "size="),
    ],
)
def test_what_cannot_be_traced_says_why(function, words):
    with pytest.raises(ArgumentError, match=words):
        traced(function, None, ())


def test_wrong_arguments_are_refused():
    for make, words in (
        (lambda: MLPField(0), "widths"),
        (lambda: MLPField(2, 4, "swish"), "activation is one of"),
        (lambda: ElementwiseField(3), "callable"),
        (lambda: ElementwiseField(relaxing, size=0, rate=1.0), "size is"),
        (lambda: ElementwiseField(relaxing, rate="fast"), "rate is a number"),
    ):
        with pytest.raises(ArgumentError, match=words):
            make()


def test_the_kernel_is_named_like_the_others():
    with pytest.raises(ArgumentError, match="whole"):
        ode_core.solvers.create("dopri5", kernel="hole")
