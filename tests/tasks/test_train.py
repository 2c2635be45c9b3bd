"""The loop: it learns, counts, stops, repeats itself, and says when it cannot go on."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

import ode_core
from ode_core import ArgumentError
from ode_tasks.run import Silent
from ode_tasks.train import Schedule, TrainingError, fit, loader, make_fabric, seeded

X = torch.linspace(-1, 1, 64)[:, None]
Y = 3 * X - 1


class Counter:
    def __init__(self):
        self.total, self.done = 0, 0

    def start(self, total, text):
        self.total = total

    def advance(self, text=""):
        self.done += 1


def squared(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def train(model, *, schedule, loss=squared, evaluate=None, rate=0.1, seed=0, progress=None):
    return fit(
        model,
        loader((X, Y), 16, seed=seed),
        loss,
        optimiser=torch.optim.SGD(model.parameters(), lr=rate),
        schedule=schedule,
        evaluate=evaluate or (lambda net: {"test_score": float((net(X) - Y).abs().mean())}),
        fabric=make_fabric("cpu", "32-true"),
        progress=progress or Silent(),
    )


def test_it_learns_a_line_and_leaves_a_row_for_each_epoch():
    model = nn.Linear(1, 1)
    trained = train(model, schedule=Schedule(30, cosine=True))
    assert model.weight.item() == pytest.approx(3, abs=0.05)
    assert [row["epoch"] for row in trained.history] == list(range(1, 31))
    assert trained.history[-1]["test_score"] < 0.05 < trained.history[0]["test_score"]
    assert trained.loss == trained.history[-1]["train_loss"] < trained.history[0]["train_loss"]
    assert trained.f_forward is None
    assert trained.epoch_seconds > 0


def test_the_epoch_loss_is_the_mean_over_its_batches():
    losses = []

    def noted(model, batch):
        loss = squared(model, batch)
        losses.append(loss.item())
        return loss

    trained = train(nn.Linear(1, 1), schedule=Schedule(1), loss=noted)
    assert len(losses) == 4
    assert trained.loss == pytest.approx(sum(losses) / 4)


class Solves(nn.Module):
    """A net whose solve costs one step more in each epoch of four batches."""

    def __init__(self):
        super().__init__()
        self.layer, self.stats, self.calls = nn.Linear(1, 1), None, 0

    def forward(self, x):
        if torch.is_grad_enabled():
            self.calls += 1
        self.stats = ode_core.Stats(f_calls=self.calls, backward_f_calls=2 * self.calls)
        return self.layer(x)


def test_evaluations_are_means_over_the_batches_of_each_epoch():
    trained = train(Solves(), schedule=Schedule(2))
    assert [row["f_forward"] for row in trained.history] == [2.5, 6.5]
    assert trained.f_forward == 6.5
    assert trained.f_backward == 13.0


def test_progress_counts_the_batches():
    counter = Counter()
    train(nn.Linear(1, 1), schedule=Schedule(3), progress=counter)
    assert (counter.total, counter.done) == (12, 12)


def test_patience_stops_and_puts_the_best_weights_back():
    scores = iter([0.1, 0.9, 0.5, 0.4, 0.3, 0.2])
    weights = []
    model = nn.Linear(1, 1)

    def evaluate(net):
        weights.append(net.state_dict()["weight"].clone())
        return {"score": next(scores)}

    schedule = Schedule(6, patience=2, watch="score", higher_is_better=True)
    trained = train(model, schedule=schedule, evaluate=evaluate)
    assert len(trained.history) == 4
    assert torch.equal(model.weight.detach(), weights[1])
    assert not torch.equal(weights[1], weights[3])


def test_patience_can_look_for_the_smallest():
    scores = iter([0.9, 0.1, 0.5, 0.6])
    schedule = Schedule(9, patience=2, watch="score", higher_is_better=False)
    trained = train(
        nn.Linear(1, 1), schedule=schedule, evaluate=lambda net: {"score": next(scores)}
    )
    assert len(trained.history) == 4


def test_the_cosine_brings_the_rate_to_zero_and_a_constant_rate_does_not():
    rates = {}
    for cosine in (True, False):
        model = nn.Linear(1, 1)
        steps = []

        def noted(net, batch, model=model, steps=steps):
            steps.append(model.weight.detach().clone())
            return net(batch[0]).sum() * 0 + net.weight.sum()  # a gradient of 1, always

        train(model, schedule=Schedule(2, cosine=cosine), loss=noted)
        moves = torch.cat(steps).diff(dim=0).abs().flatten()
        rates[cosine] = (moves[0].item(), moves[-1].item())
    assert rates[True][1] < 0.2 * rates[True][0]
    assert rates[False][1] == pytest.approx(rates[False][0], rel=1e-4)


def test_clipping_bounds_the_move_of_one_batch():
    model = nn.Linear(1, 1)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    train(
        model,
        schedule=Schedule(1, clip=0.01),
        loss=lambda net, batch: 1e6 * squared(net, batch),
        rate=1.0,
    )
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert 0 < (after - before).norm() <= 4 * 0.01 * (1 + 1e-4)


def test_a_loss_that_is_no_number_stops_with_a_sentence():
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, batch 1; lower the learning"):
        train(nn.Linear(1, 1), schedule=Schedule(1), loss=lambda m, b: squared(m, b) * float("nan"))


def test_the_same_seed_gives_the_same_weights():
    def weights(seed):
        with seeded(seed):
            model = nn.Linear(1, 1)
            train(model, schedule=Schedule(1), seed=seed)
        return model.weight.item()

    assert weights(1) == weights(1) != weights(2)


def test_seeds_are_put_back():
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    with seeded(5):
        first = (random.random(), np.random.rand(), torch.rand(1).item())
    assert state() == before
    with seeded(5):
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


def test_training_batches_are_shuffled_anew_and_all_of_one_size():
    batches = loader((torch.arange(10),), 4, seed=0)
    epochs = [[batch[0] for batch in batches] for _ in range(2)]
    assert [len(batch) for batch in epochs[0]] == [4, 4]
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    again = [batch[0] for batch in loader((torch.arange(10),), 4, seed=0)]
    assert torch.equal(torch.cat(again), torch.cat(epochs[0]))


def test_test_batches_are_in_order_and_complete():
    batches = [batch[0].tolist() for batch in loader((torch.arange(10),), 4)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_fewer_samples_than_a_batch_are_still_trained_on():
    assert [len(b[0]) for b in loader((torch.arange(3),), 4, seed=0)] == [3]


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", ["'gpu'", "cpu, cuda or cuda:1"]),
        ("meta", ["'meta'", "cpu, cuda or cuda:1"]),
        ("cuda:99", ["'cuda:99'", "--device cpu"]),
    ],
)
def test_a_device_that_is_not_here_is_one_sentence(device, words):
    with pytest.raises(ArgumentError) as caught:
        make_fabric(device, "32-true")
    assert all(word in str(caught.value) for word in words)


def test_a_precision_that_fabric_does_not_know_is_refused():
    with pytest.raises(ArgumentError, match="precision 'half'"):
        make_fabric("cpu", "half")


def test_milestones_and_warm_up_change_the_rate():
    schedule = Schedule(4, milestones=(2, 3), gamma=0.5, warmup=1)
    factors = [schedule.factor(step, per_epoch=2) for step in range(8)]
    assert factors == [0.5, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    with_cosine = Schedule(4, milestones=(2, 3), gamma=0.5, warmup=1, cosine=True)
    for step, factor in enumerate(factors):
        half_cosine = 0.5 * (1 + np.cos(np.pi * step / 8))
        assert with_cosine.factor(step, 2) == pytest.approx(factor * half_cosine)


def test_the_row_of_the_best_epoch_is_that_of_the_weights():
    scores = iter([0.1, 0.9, 0.5, 0.4])
    schedule = Schedule(6, patience=2, watch="score")
    trained = train(
        nn.Linear(1, 1), schedule=schedule, evaluate=lambda net: {"score": next(scores)}
    )
    assert (trained.row["epoch"], trained.row["score"]) == (2, 0.9)
    assert trained.history[-1]["epoch"] == 4
