"""Evaluations in a backward pass are those of the forward solve: inputs, draws, modes, buffers."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch
from torch import nn

from ode_core import OdeError, UnsupportedError, solve
from ode_core.capture import Capture, Watched
from ode_core.field import Field
from ode_core.layout import Layout
from tests.problems import F64

replayed = pytest.mark.parametrize("gradient", ["checkpoint", "symplectic"])
every = pytest.mark.parametrize("gradient", ["direct", "checkpoint", "symplectic"])
ONE = torch.tensor(1.0, dtype=F64)


def close(found, exact):
    return all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(found, exact, strict=True))


@every
@pytest.mark.parametrize("case", ["sum", "square", "start", "both"])
def test_an_input_with_a_graph_of_its_own_is_counted_once(gradient, case):
    """f closes over x and over z made of x; or over the start, which is made of x."""
    x = torch.tensor(1.5, dtype=F64, requires_grad=True)
    z = x + 1.0 if case == "sum" else x**2
    y0 = z if case in ("start", "both") else ONE
    f = (lambda t, y: -x * y) if case == "start" else (lambda t, y: -x * y + z)
    y = solve(f, y0, [0.0, 1.0], gradient=gradient, rtol=1e-10, atol=1e-10).ys[-1]
    (found,) = torch.autograd.grad(y, x)

    # y' = -x y + z from y0: the solution is known.
    other = torch.tensor(1.5, dtype=F64, requires_grad=True)
    w = other + 1.0 if case == "sum" else other**2
    drive = w / other if case != "start" else 0.0
    start = w if case in ("start", "both") else ONE
    (exact,) = torch.autograd.grad(drive + (start - drive) * torch.exp(-other), other)
    assert torch.allclose(found, exact, rtol=1e-8)


@replayed
def test_a_tensor_of_a_module_that_takes_part_late_gets_its_gradient(gradient):
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1, dtype=F64)
            self.held = [torch.tensor(0.3, dtype=F64, requires_grad=True)]

        def forward(self, t, y):
            out = self.linear(y)
            return out + self.held[0] * y if t > 0.5 else out

    def run(gradient):
        torch.manual_seed(0)
        net = Late()
        ys = solve(net, torch.ones(1, 1, dtype=F64), [0.0, 1.0], gradient=gradient,
                   jump_times=[0.5]).ys  # fmt: skip
        return torch.autograd.grad(ys[-1].sum(), [net.held[0], *net.parameters()])

    assert close(run(gradient), run("direct"))


class Hidden:
    """Holds a tensor where nobody looks who looks for attributes."""

    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


def test_watching_ends_once_all_that_f_can_reach_has_been_seen(monkeypatch):
    first, late = (torch.tensor(0.3, dtype=F64, requires_grad=True) for _ in range(2))
    entered, enter = [], Capture.__enter__
    monkeypatch.setattr(Capture, "__enter__", lambda self: (entered.append(call), enter(self))[1])
    f = lambda t, y: first * y if t < 0.5 else (first + late) * y
    watched = Watched(Field(f, Layout.of(ONE)[0], ONE, (F64, F64)))
    with torch.no_grad():
        for call in range(24):
            watched(call / 16, ONE)
    assert [id(x) for x in watched.tensors] == [id(first), id(late)]
    # Every call up to that in which the late one is seen, and then every eighth.
    assert entered == [*range(9), 16]


@replayed
@pytest.mark.parametrize("begins", [0.3, 0.99])
def test_a_tensor_that_is_hidden_and_takes_part_late_is_found_or_named(gradient, begins):
    hidden = torch.tensor(0.7, dtype=F64, requires_grad=True)
    holder = Hidden(hidden)
    f = lambda t, y: -y if t < begins else holder.x * y

    def run(gradient):
        y0 = torch.ones(1, dtype=F64, requires_grad=True)
        solve(f, y0, [0.0, 1.0], solver="rk4", dt=0.05, gradient=gradient).ys.sum().backward()
        found, hidden.grad = hidden.grad, None
        return [y0.grad, found]

    if begins < 0.5:
        assert close(run(gradient), run("direct"))
    else:
        with pytest.raises(UnsupportedError, match=r"a tensor of shape \(\) takes part"):
            run(gradient)


@every
@pytest.mark.parametrize("leaf", [True, False])
def test_a_tensor_that_f_returns_as_it_is_gets_its_gradient(gradient, leaf):
    given = torch.tensor([0.3, 0.5], dtype=F64, requires_grad=True)
    rate = given if leaf else 2.0 * given
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    ys = solve(lambda t, y: rate, y0, [0.0, 1.5], gradient=gradient, solver="rk4", dt=0.5).ys
    found = torch.autograd.grad(ys[-1].sum(), [given, y0])
    assert close(found, [torch.full_like(given, 1.5 if leaf else 3.0), torch.ones_like(y0)])


@replayed
def test_a_tensor_that_cannot_get_its_gradient_is_named(gradient):
    """What torch functions do not see: only the graph of the replay tells."""
    hidden = torch.tensor([0.7], dtype=F64, requires_grad=True)

    def f(t, y):
        with torch._C.DisableTorchFunction():  # as in a compiled or scripted part of f
            return hidden * y

    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    ys = solve(f, y0, [0.0, 1.0], gradient=gradient).ys
    with pytest.raises(UnsupportedError, match=r"the tensor 'hidden', of shape \(1,\), takes part"):
        ys.sum().backward()


@replayed
def test_a_leaf_that_f_makes_itself_is_its_own_affair(gradient):
    kept = []

    def f(t, y):
        with torch.enable_grad():
            inner = y.detach().requires_grad_()
            slope = torch.autograd.grad(inner.pow(3).sum(), inner, create_graph=True)[0]
        kept.append(id(slope))
        return -slope - y

    def run(gradient):
        y0 = torch.tensor([0.5], dtype=F64, requires_grad=True)
        ys = solve(f, y0, [0.0, 1.0], gradient=gradient, solver="rk4", dt=0.1).ys
        return torch.autograd.grad(ys[-1].sum(), y0)

    assert close(run(gradient), run("direct"))


def test_what_f_makes_itself_is_not_kept_alive():
    with torch.no_grad(), Capture() as capture:
        for _ in range(100):
            leaf = torch.zeros(1000).requires_grad_()
            torch.sin(leaf)
        del leaf
    gc.collect()
    assert capture.tensors == ()


@replayed
def test_forward_derivatives_are_refused_by_name(gradient):
    net = nn.Linear(1, 1, dtype=F64)
    one = torch.ones(1, 1, dtype=F64)
    end = lambda y: solve(lambda t, y: net(y), y, [0.0, 1.0], gradient=gradient).ys[-1]
    with pytest.raises(UnsupportedError, match=f"gradient='{gradient}' has no forward derivatives"):
        torch.func.jvp(end, (one,), (one,))
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(UnsupportedError, match=f"gradient='{gradient}' has no forward derivatives"),
    ):
        end(torch.autograd.forward_ad.make_dual(one, one))
    with pytest.raises(UnsupportedError, match="does not go through the transforms of torch.func"):
        torch.func.grad(lambda y: end(y).sum())(one)


class Block(nn.Module):
    def __init__(self, gradient, own):
        super().__init__()
        self.linear = nn.Linear(2, 2, dtype=F64)
        self.gradient, self.own = gradient, own

    def forward(self, x):
        f = self.linear if self.own else (lambda t, y: torch.tanh(self.linear(y)))
        f = (lambda t, y: self.linear(y)) if self.own else f
        return solve(f, x, [0.0, 1.0], gradient=self.gradient).ys[-1]


@replayed
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_parameters_that_functional_call_puts_in_place_get_the_gradient(gradient, own, frozen):
    def run(gradient):
        torch.manual_seed(0)
        block = Block(gradient, own).requires_grad_(not frozen)
        before = dict(block.named_parameters())
        scale = torch.tensor(1.2, dtype=F64, requires_grad=True)
        scaled = {name: p.detach() * scale for name, p in before.items()}
        out = torch.func.functional_call(block, scaled, torch.ones(1, 2, dtype=F64))
        found = torch.autograd.grad(out.sum(), scale)
        assert all(p is before[name] for name, p in block.named_parameters())
        return found

    assert close(run(gradient), run("direct"))


@every
@pytest.mark.parametrize("solver", ["dopri5", "adams_moulton", "kvaerno5"])
def test_random_draws_are_the_same_at_every_evaluation_of_one_solve(gradient, solver):
    seen = []

    def noisy(t, y):
        noise = torch.randn(y.shape, dtype=F64)
        seen.append(noise)
        return -y + noise

    y0 = torch.ones(3, dtype=F64, requires_grad=True)
    drawn = []
    for _ in range(2):
        seen.clear()
        ys = solve(noisy, y0, [0.0, 1.0], solver=solver, gradient=gradient).ys
        ys.sum().backward()
        assert len(seen) > 4
        assert all(torch.equal(noise, seen[0]) for noise in seen)
        drawn.append(seen[0])
    assert not torch.equal(*drawn), "the next solve draws anew"


@replayed
def test_dropout_has_the_gradient_of_the_direct_solve(gradient):
    def run(gradient):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Tanh(), nn.Linear(32, 4)).to(F64)
        y0 = torch.randn(3, 4, dtype=F64)
        ys = solve(lambda t, y: net(y), y0, [0.0, 1.0], gradient=gradient).ys
        between = torch.rand(1)
        found = torch.autograd.grad(ys[-1].square().sum(), list(net.parameters()))
        return [ys, between, *found, torch.rand(1)]

    assert close(run(gradient), run("direct"))


@every
def test_an_f_that_draws_nothing_leaves_the_generator_alone(gradient):
    before = torch.get_rng_state()
    y0 = torch.ones(3, dtype=F64, requires_grad=True)
    solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=gradient).ys.sum().backward()
    assert torch.equal(before, torch.get_rng_state())


@replayed
def test_an_f_that_begins_to_draw_late_is_refused(gradient):
    f = lambda t, y: -y + torch.randn(1, dtype=F64) if t > 0.5 else -y
    y0 = torch.ones(3, dtype=F64, requires_grad=True)
    ys = solve(f, y0, [0.0, 1.0], solver="rk4", dt=0.1, gradient=gradient).ys
    with pytest.raises(UnsupportedError, match="began to draw random numbers after its first"):
        ys.sum().backward()


@replayed
@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d, partial(nn.InstanceNorm1d, track_running_stats=True)]
)
def test_statistics_are_not_updated_again(gradient, norm):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv1d(2, 4, 1), norm(4), nn.Tanh(), nn.Conv1d(4, 2, 1))

        def forward(self, t, y):
            return self.layers(y)

    def run(gradient):
        torch.manual_seed(0)
        net = Normed().to(F64)
        ys = solve(net, torch.randn(3, 2, 5, dtype=F64), [0.0, 1.0], solver="rk4", dt=0.5,
                   gradient=gradient).ys  # fmt: skip
        buffers = [buffer.clone() for buffer in net.buffers()]
        versions = [buffer._version for buffer in net.buffers()]
        net.eval()  # as between a loss and its backward pass
        ys[-1].square().sum().backward()
        assert not net.training
        assert all(torch.equal(a, b) for a, b in zip(buffers, net.buffers(), strict=True))
        assert versions == [buffer._version for buffer in net.buffers()]
        return [b.double() for b in buffers], [p.grad for p in net.parameters()]

    (buffers, found), (wanted, exact) = run(gradient), run("direct")
    assert close(buffers, wanted)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, exact, strict=True))


@replayed
def test_autocast_is_that_of_the_forward_solve(gradient):
    seen = []

    def run(gradient):
        torch.manual_seed(0)
        net = nn.Linear(4, 4)

        def f(t, y):
            out = net(y)
            seen.append(out.dtype)
            return out

        y0 = torch.randn(3, 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ys = solve(f, y0, [0.0, 1.0], solver="rk4", dt=0.5, gradient=gradient).ys
            # The same weight right after, in the same region: its cast must have a graph.
            after = net(y0).float().sum()
        (ys[-1].square().sum() + after).backward()
        return net.weight.grad

    found, exact = run(gradient), run("direct")
    assert set(seen) == {torch.bfloat16}
    assert torch.allclose(found, exact, rtol=0.03, atol=0.1)


@every
def test_outputs_may_be_written_into(gradient):
    net = nn.Linear(2, 2, dtype=F64)
    ys = solve(lambda t, y: net(y), torch.ones(1, 2, dtype=F64), [0.0, 1.0], gradient=gradient).ys
    exact = torch.autograd.grad(2.0 * ys[-1].sum(), net.weight, retain_graph=True)
    ys.mul_(2.0)
    assert close(torch.autograd.grad(ys[-1].sum(), net.weight), exact)


@every
def test_sparse_gradients(gradient):
    table = nn.Embedding(5, 2, sparse=True, dtype=F64)
    rows = torch.tensor([1, 3])
    f = lambda t, y: torch.tanh(table(rows)) * y
    y0 = torch.ones(2, 2, dtype=F64)
    solve(f, y0, [0.0, 1.0], gradient=gradient, rtol=1e-8).ys[-1].sum().backward()
    assert table.weight.grad.is_sparse
    assert torch.allclose(table.weight.grad.to_dense()[rows],
                          torch.autograd.grad(torch.tanh(table(rows)).exp().sum(), table.weight)[0]
                          .to_dense()[rows], rtol=1e-5)  # fmt: skip


@replayed
@pytest.mark.parametrize("what", ["a buffer of f", "an entry of args", "a weight"])
def test_what_was_changed_in_place_between_the_passes_is_noticed(gradient, what):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2, dtype=F64)
            self.register_buffer("scale", torch.ones(2, dtype=F64))

        def forward(self, t, y, u):
            return self.linear(y) * self.scale * u

    net, u = Scaled(), torch.ones(2, dtype=F64)
    ys = solve(net, torch.ones(1, 2, dtype=F64), [0.0, 1.0], gradient=gradient, args=(u,)).ys
    changed = {"a buffer of f": net.scale, "an entry of args": u, "a weight": net.linear.weight}
    with torch.no_grad():
        changed[what].mul_(2.0)
    error = RuntimeError if what == "a weight" else OdeError
    with pytest.raises(error, match="modified by an inplace" if what == "a weight" else what):
        ys.sum().backward()


@every
def test_hooks_of_tensors_see_whole_gradients(gradient):
    torch.manual_seed(0)
    net, seen = nn.Linear(2, 2, dtype=F64), []
    net.weight.register_hook(lambda grad: (seen.append(grad), 2.0 * grad)[1])
    ys = solve(lambda t, y: net(y), torch.ones(1, 2, dtype=F64), [0.0, 1.0], gradient=gradient).ys
    ys[-1].sum().backward()
    assert len(seen) == 1
    assert torch.equal(net.weight.grad, 2.0 * seen[0])


@replayed
def test_hooks_on_saved_tensors_hide_nothing(gradient):
    weight = torch.tensor([0.5], dtype=F64, requires_grad=True)
    with torch.autograd.graph.save_on_cpu():
        ys = solve(lambda t, y: weight * y, torch.ones(1, dtype=F64), [0.0, 1.0], rtol=1e-9,
                   atol=1e-9, gradient=gradient).ys  # fmt: skip
    assert torch.allclose(torch.autograd.grad(ys[-1].sum(), weight)[0], weight.exp())


@replayed
def test_a_solve_within_an_activation_checkpoint(gradient):
    net = nn.Linear(2, 2, dtype=F64)
    y0 = torch.ones(1, 2, dtype=F64, requires_grad=True)
    end = lambda y: solve(lambda t, y: net(y), y, [0.0, 1.0], gradient=gradient).ys[-1]
    exact = torch.autograd.grad(end(y0).sum(), [y0, *net.parameters()])
    again = torch.utils.checkpoint.checkpoint(end, y0, use_reentrant=False)
    assert close(torch.autograd.grad(again.sum(), [y0, *net.parameters()]), exact)
