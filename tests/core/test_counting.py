"""Counters of operations: what each kind of call adds, and `ode cost`."""

from __future__ import annotations

import json

import pytest
import torch

from ode_core.cli import main
from ode_core.testing.cost import rows_of
from ode_core.testing.counting import Counter, Counts


def counted(work):
    counter = Counter()
    with counter.running() as counts:
        work(counter)
    return counts


X = torch.ones(4, 8)
SIZE = 4 * 8 * 4


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda c: X + X, Counts(1, SIZE, SIZE, 1, SIZE)),
        (lambda c: X + X[0], Counts(1, SIZE + 32, SIZE, 1, SIZE)),
        (lambda c: X + X[0].expand(4, 8), Counts(1, SIZE + 32, SIZE, 1, SIZE)),
        (lambda c: X.t().view(-1, 4)[1:], Counts()),
        (lambda c: X.reshape(-1), Counts()),
        (lambda c: X.clone().mul_(2.0), Counts(2, 2 * SIZE, 2 * SIZE, 1, SIZE)),
        (lambda c: torch.empty(3), Counts(0, 0, 0, 1, 12)),
        (lambda c: torch.empty(3).fill_(1.0), Counts(1, 0, 12, 1, 12)),
        (lambda c: torch.cat((X, X)), Counts(1, SIZE, 2 * SIZE, 1, 2 * SIZE)),
        (lambda c: torch.add(X, X, out=torch.empty(4, 8)), Counts(1, 2 * SIZE, SIZE, 1, SIZE)),
        (lambda c: X[0, 0].item(), Counts(1, 4, 0, 0, 0, 1)),
        (lambda c: bool(X[0, 0]), Counts(1, 4, 0, 0, 0, 1)),
        (lambda c: X.tolist(), Counts(synchronisations=1)),
        (lambda c: c.outside(lambda: (X + X).sum().item())(), Counts()),
    ],
)
def test_what_a_call_adds(work, expected):
    assert counted(work) == expected


def test_a_mask_makes_the_host_wait():
    mask = X[:, 0] > 0
    assert counted(lambda c: X[mask]).synchronisations == 1
    assert counted(lambda c: X[torch.tensor([0, 1])]).synchronisations == 0


def test_what_is_outside_stays_outside_where_it_fails():
    def fails():
        raise ValueError

    counter = Counter()
    with counter.running() as counts, pytest.raises(ValueError):  # noqa: PT011
        counter.outside(fails)()
    with counter.running():
        torch.add(X, 1.0)
    assert counts.operations == 1


def test_eulers_method_costs_one_addition_and_the_time():
    step = {row["of"]: row for row in rows_of("euler") if row["stepping"] == "shared"}["step"]
    # y + dt f, and t as f gets it.
    assert (step["operations"], step["written"], step["synchronisations"]) == (2, 1.0, 0)


def test_the_command_shows_every_stepping_and_reasons(capsys):
    assert main(["cost", "rk4", "scipy_bdf", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["solver"], row.get("stepping"), row.get("of")) for row in rows] == [
        *(("rk4", s, of) for s in ("shared", "per_sample")
          for of in ("step", "output", "further output")),
        ("scipy_bdf", None, None),
    ]  # fmt: skip
    assert rows[-1]["status"] == "skipped"
    assert "not made of torch operations" in rows[-1]["reason"]
    assert main(["cost", "rk5"]) == 2
    assert "rk4" in capsys.readouterr().err
