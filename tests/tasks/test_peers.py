"""`ode peers`: rows of the suite and of those who are not there, ratios, tolerances, files."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from ode_core.api import solve
from ode_core.cli import main
from ode_core.errors import UnsupportedError
from ode_core.registry import solvers
from ode_tasks.peers import command, compare, contest, suite
from ode_tasks.peers.compare import Settings
from ode_tasks.peers.contest import BACKWARD, CONTINUOUS, FORWARD, Outcome, Prepared, Variant
from ode_tasks.peers.diffrax import Diffrax
from ode_tasks.peers.fields import Convolution, Perceptron
from ode_tasks.peers.plot import slopes
from ode_tasks.peers.reference import truth
from ode_tasks.peers.rounds import timed
from ode_tasks.peers.scipy import NumPy, SciPy
from ode_tasks.peers.suite import Suite
from ode_tasks.peers.table import summary
from ode_tasks.peers.torchdiffeq import Torchdiffeq
from ode_tasks.peers.works import WORKS, Work, chosen

ONCE = Settings(rounds=1, threads=1, device="cpu")
SMALL = Work("small", "2x3, MLP 4", lambda: Perceptron(3, 4), (2, 3), (0.0, 0.5, 1.0))


@pytest.fixture(autouse=True)
def seen(monkeypatch):
    """The options of every solve of the suite, none of which is compiled: that takes too long."""
    options = []

    def plain(*arguments, **given):
        options.append(dict(given))
        given.pop("compile", None)
        return solve(*arguments, **given)

    monkeypatch.setattr(suite, "solve", plain)
    return options


@pytest.fixture
def alone(monkeypatch):
    """No peer is installed, whatever is."""
    monkeypatch.setattr(contest.importlib.util, "find_spec", lambda name: None)


def table(capsys, *arguments):
    assert main(["peers", *arguments, "--rounds", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("alone")
def test_without_any_peer_the_suite_has_rows_and_the_others_reasons(capsys):
    rows = table(capsys, "--works", "cheap_64x2")
    assert {row["peer"] for row in rows} == {peer.name for peer in command.PEERS}
    for row in rows:
        if row["peer"] == "suite":
            assert row["status"] == "ok"
            assert row["seconds"] > 0.0
            assert 0.0 < row["error"] < 1e-2
        else:
            assert (row["status"], row["reason"]) == (
                "skipped",
                f"not installed: pip install {row['peer']}",
            )
    backward = {row["variant"]: row for row in rows if row["direction"] == BACKWARD}
    assert backward["direct"]["f_backward"] == 0 < backward["adjoint"]["f_backward"]
    assert backward["direct"]["times_suite"] == backward["adjoint"]["times_suite"] == 1.0
    assert all(0.0 < backward[name]["gradient_error"] < 0.1 for name in ("direct", "adjoint"))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("asked", "found"), [("forward", FORWARD), ("backward", BACKWARD)])
def test_one_direction_is_timed_where_one_is_asked_for(capsys, asked, found):
    rows = table(capsys, "--works", "rk4_64x2", "--peers", "torchode", "--direction", asked)
    assert {row["direction"] for row in rows} == {found}
    assert {row["peer"] for row in rows} == {"suite", "torchode"}


class Fake:
    """A peer whose calls last as long as they say."""

    name = "fake"
    estimate = 1.0
    missing = ""
    seconds = 6.0

    def variants(self, work, direction):
        return (Variant("one"), Variant("two", CONTINUOUS))

    def prepare(self, posed, variant, direction, threads):
        if variant.name == "two" and direction == FORWARD:
            raise RuntimeError("no luck")
        ys = posed.y0.expand(len(posed.t), *posed.y0.shape)
        return Prepared(lambda: self.seconds, lambda: Outcome(ys, None, 10, 5, 4), compiles=True)


class Clock:
    """Calls that return a number last that many seconds, the suite's 2 and those of f 0.1."""

    name = "clock"

    def __init__(self, device, threads):
        pass

    def seconds(self, call, repeats=1):
        found = call()
        if isinstance(found, float):
            return found
        small = isinstance(found, tuple) or found.shape == (2, 3)
        return 0.1 if small else 2.0


def test_ratios_are_those_of_the_times(monkeypatch):
    monkeypatch.setattr(compare, "Clock", Clock)
    rows = list(compare.compare(SMALL, FORWARD, [Suite(), Fake()], ONCE))
    own, _, _, _, one, two = rows
    calls = own["f_forward"]
    assert own["times_suite"] == 1.0
    assert own["over_floor"] == pytest.approx(2.0 / (0.1 * calls))
    assert own["step_overhead"] == pytest.approx((2.0 - 0.1 * calls) / own["steps"])
    assert one["times_suite"] == pytest.approx(3.0)
    assert one["times_suite_a_call"] == pytest.approx(3.0 * calls / 10)
    assert one["over_floor"] == pytest.approx(6.0)
    assert one["step_overhead"] == pytest.approx(5.0 / 4)
    assert (one["compile_seconds"], own.get("compile_seconds")) == (6.0, None)
    assert one["error"] > 0.01 > own["error"]
    assert (two["status"], two["reason"]) == ("failed", "RuntimeError: no luck")


def test_in_short_the_fastest_variant_of_a_peer_counts():
    row = {"status": "ok", "summary": "a", "direction": BACKWARD, "device": "cpu", "variant": ""}
    row |= {"gradient_kind": "exact", "base": False, "times_suite_a_call": 1.5, "over_floor": 9.0}
    rows = [
        row | {"peer": "suite", "base": True, "times_suite": 1.0, "over_floor": 1.25},
        row | {"peer": "suite", "variant": "direct, compiled", "times_suite": 0.5},
        row | {"peer": "suite", "variant": "symplectic", "times_suite": 1.5},
        *(row | {"peer": "other", "times_suite": ratio} for ratio in (3.0, 2.0, 4.0)),
        row | {"peer": "lost", "status": "failed"},
    ]
    assert summary(rows) == [
        {"work": "a", "passes": "forward+backward, exact, cpu", "suite × floor": 1.25,
         "compiled × suite": 0.5, "other": "2 (1.5)"}
    ]  # fmt: skip


def test_gradients_are_compared_with_their_own_kind(monkeypatch):
    monkeypatch.setattr(compare, "Clock", Clock)
    monkeypatch.setattr(compare, "_pulled_back", lambda posed: 0.5)
    rows = list(compare.compare(SMALL, BACKWARD, [Fake()], ONCE))
    # One evaluation forwards costs 0.1 and with its backward pass 0.5 seconds.
    assert [row["floor_seconds"] for row in rows] == pytest.approx([10 * 0.5, 10 * 0.1 + 5 * 0.5])
    assert all("times_suite" not in row for row in rows)
    bases = [v.kind for v in Suite().variants(SMALL, BACKWARD) if v.base]
    assert sorted(bases) == ["continuous", "exact"]


def test_each_way_of_the_suite_is_asked_for_with_its_options(seen):
    posed = SMALL.posed("cpu")
    made = {}
    for direction in (FORWARD, BACKWARD):
        for variant in Suite().variants(SMALL, direction):
            seen.clear()
            outcome = Suite().prepare(posed, variant, direction, 1).outcome()
            made[variant.name] = (outcome.f_forward, outcome.f_backward, seen[0])
    assert made["shared, compiled"][2]["compile"] is True
    assert made["direct, compiled"][2]["gradient"] == "direct"
    assert made["shared, compiled"][:2] == made["shared"][:2]
    assert made["shared, I controller"][2]["controller"].icoeff == 1.0
    assert [name for name, (*_, options) in made.items() if "compile" in options] == [
        "shared, compiled",
        "direct, compiled",
    ]
    assert {options.get("gradient") for *_, options in made.values()} > {"adjoint", "symplectic"}


def test_rounds_take_everyone_in_turn():
    order = []

    class Slow(Clock):
        def seconds(self, call, repeats=1):
            order.append(call())
            return {"a": 1.0, "b": 30.0, "c": 2.0}[order[-1]]

    calls = {name: lambda name=name: name for name in "abc"}
    found = timed(calls, 3, Slow("cpu", 1))
    # Once each; then b, which is slow, is left out, and the order turns round.
    assert "".join(order) == "abc" + "acca" + "ac"
    assert (len(found["a"].rounds), found["b"].rounds) == (3, (30.0,))


# The weights of the lower order in the peers that go by Shampine's error estimate.
SHAMPINE = ["1951/21600", "0", "22642/50085", "451/720", "-12231/42400", "649/6300", "1/60"]


def test_the_peers_estimate_is_two_thirds_of_ours():
    tableau = solvers.create("dopri5").tableau
    theirs = [b - float(Fraction(low)) for b, low in zip(tableau.b, SHAMPINE, strict=True)]
    ours = [Torchdiffeq.estimate * weight for weight in tableau.b_error]
    assert np.allclose(np.abs(theirs), np.abs(ours), rtol=0.0, atol=1e-15)


def test_a_peer_gets_the_tolerance_at_which_it_takes_the_same_steps(monkeypatch):
    seen = {}

    def odeint(f, y0, t, **options):
        seen.update(options)
        return torch.stack([y0] * len(t))

    fake = types.SimpleNamespace(odeint=odeint)
    monkeypatch.setitem(sys.modules, "torchdiffeq", fake)
    prepared = Torchdiffeq().prepare(SMALL.posed("cpu"), Variant("odeint"), FORWARD, 1)
    prepared.run()
    assert seen["rtol"] == pytest.approx(SMALL.rtol * 2 / 3)
    assert seen["atol"] == pytest.approx(SMALL.atol * 2 / 3)
    fixed = replace(SMALL, solver="rk4_38", dt=0.1)
    Torchdiffeq().prepare(fixed.posed("cpu"), Variant("odeint"), FORWARD, 1).run()
    assert (seen["method"], seen["options"]) == ("rk4", {"step_size": 0.1})


class Torch(NumPy):
    """The operations of fields in torch, to compare with what the fields do there."""

    def tanh(self, x):
        return torch.tanh(x)

    def concatenate(self, parts, axis):
        return torch.cat(tuple(parts), axis)

    def convolution(self, x, weight):
        return torch.nn.functional.conv2d(x, weight, padding=1)


@pytest.mark.parametrize("work", chosen(["table"]), ids=lambda work: work.name)
def test_a_field_is_the_same_in_every_library(work):
    small = replace(work, shape=tuple(min(n, 128) for n in work.shape))
    if "512" in work.name:
        small = replace(work, field=lambda: Perceptron(8, 4), shape=(3, 8))
    if "conv" in work.name:
        small = replace(work, field=lambda: Convolution(2), shape=(3, 2, 5, 5))
    posed = small.posed("cpu")
    with torch.no_grad():
        expected = posed.field(posed.t[0], posed.y0)
        weights = [*posed.field.parameters(), *posed.field.rows]
        found = posed.field.written_in(Torch())(0.0, posed.y0, weights)
    assert torch.allclose(found, expected, atol=1e-6)


def test_scipy_solves_together_or_sample_by_sample():
    for work in (SMALL, replace(WORKS["van_der_pol"], times=(0.0, 0.5), per_sample=True)):
        posed = work.posed("cpu")
        outcome = SciPy().prepare(posed, Variant("RK45"), FORWARD, 1).outcome()
        error, _ = truth(posed, gradient=False).errors(outcome)
        assert outcome.ys.shape == (len(work.times), *work.shape)
        assert outcome.f_forward == 2 + 6 * outcome.steps
        assert error < 1e-4


def test_what_a_peer_lacks_is_a_row(capsys):
    rows = table(capsys, "--works", "rk4_64x2", "--peers", "scipy", "--direction", "both")
    reasons = [row["reason"] for row in rows if row["peer"] == "scipy"]
    assert reasons == ["scipy has no rk4_38", "scipy has no gradients"]


def test_what_would_take_xla_minutes_is_refused_before_it_is_tried():
    work = replace(SMALL, field=lambda: Convolution(2), shape=(2, 2, 4, 4))
    with pytest.raises(UnsupportedError, match="ten minutes"):
        Diffrax().prepare(work.posed("cpu"), Variant("jit"), BACKWARD, 1)


def line(size, seconds, peer="suite"):
    return {"grows": "batch", "size": size, "seconds": seconds, "peer": peer, "variant": "",
            "status": "ok"}  # fmt: skip


def test_slopes_are_those_of_a_power_law():
    rows = [line(10**k, 3.0 * 10 ** (0.5 * k)) for k in range(1, 5)]
    rows += [line(1, 1.0, "other"), line(10, 1.0, "other"), line(100, 100.0, "other")]
    own, other = slopes(rows)
    assert (own["slope"], own["steepest"]) == pytest.approx((0.5, 0.5))
    assert (other["slope"], other["steepest"]) == pytest.approx((1.0, 2.0))


@pytest.mark.usefixtures("alone")
def test_a_folder_gets_rows_tables_and_plots(tmp_path, capsys):
    out = tmp_path / "new"
    arguments = ["--works", "cheap_64x2,outputs_10,outputs_30", "--direction", "forward"]
    assert main(["peers", *arguments, "--rounds", "1", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    for name in ("peers.json", "peers.md", "peers.png", "growth.png"):
        assert str(out / name) in said
    stored = json.loads((out / "peers.json").read_text())
    assert "torch" in stored["machine"]
    assert {row["work"] for row in stored["rows"]} == {"cheap_64x2", "outputs_10", "outputs_30"}
    text = (out / "peers.md").read_text()
    assert "| 64x2, y' = -y | suite shared |" in text
    assert "- torchode (cheap_64x2): not installed: pip install torchode" in text
    assert "| outputs | suite shared | 10 | 30 |" in text
    for name in ("peers.png", "growth.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("alone")
def test_what_was_finished_before_an_interruption_is_kept(tmp_path, capsys, monkeypatch):
    measured = compare.compare

    def interrupted(work, *arguments):
        if work.name == "rk4_64x2":
            raise KeyboardInterrupt
        return measured(work, *arguments)

    monkeypatch.setattr(command, "compare", interrupted)
    arguments = ["--works", "cheap_64x2,rk4_64x2", "--direction", "forward", "--rounds", "1"]
    assert main(["peers", *arguments, "--out", str(tmp_path), "--json"]) == 130
    captured = capsys.readouterr()
    assert {row["work"] for row in json.loads(captured.out)} == {"cheap_64x2"}
    assert "interrupted" in captured.err
    assert "64x2, y' = -y" in (tmp_path / "peers.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--works", "cheap"], "cheap_64x2"),
        (["--peers", "torchdifeq"], "torchdiffeq"),
        (["--device", "cuda"], "no GPU"),
        (["--out", __file__], "is a file"),
    ],
)
def test_what_cannot_be_done_is_refused(capsys, monkeypatch, arguments, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["peers", *arguments]) == 2
    assert said in capsys.readouterr().err
