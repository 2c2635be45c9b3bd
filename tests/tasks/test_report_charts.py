"""What the charts show and what the sentences claim, on rows made up for it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ode_tasks.report import curves, pareto, precision
from ode_tasks.report.chart import MOST_SERIES, styled
from ode_tasks.report.charts import charts
from ode_tasks.report.groups import sets
from ode_tasks.report.rows import Result


def run(solver, seed=0, seconds=1.0, score=0.9, memory=1.0, **fields):
    row = {
        "task": "digits", "model": "odenet", "solver": solver, "gradient": "direct", "rtol": 1e-3,
        "preset": "smoke", "seed": seed, "device": "cpu", "status": "ok", "reason": "",
        "score": score, "score_name": "accuracy", "higher_is_better": True, "machine": "one",
        "epoch_seconds": seconds, "memory_bytes": memory * 2**20, "cell": f"{solver}-{seed}",
    } | fields  # fmt: skip
    return Result(row, Path("x"), Path("x"))


def one_set(runs):
    (found,) = sets(runs)
    return found


def words(runs):
    return " ".join(pareto.choice(one_set(runs)).sentences)


def pairs(factor, noise=(1.0, 1.1, 0.9, 1.05), **fields):
    quick = [run("quick", seed, n) for seed, n in enumerate(noise)]
    return quick + [
        run("slow", seed, factor * n * (1 + 0.01 * seed), **fields) for seed, n in enumerate(noise)
    ]


def test_faster_is_said_only_after_a_paired_test():
    said = words(pairs(2.0))
    assert said.startswith("For digits (smoke) take quick: accuracy 0.9, ")
    assert "It is faster than slow (2.03 times) (paired t-test" in said
    shuffled = (1.0, 3.0, 0.3, 1.2)
    unclear = [run("slow", seed, n * (1.3, 0.5, 1.6, 1.0)[seed]) for seed, n in enumerate(shuffled)]
    said = words([*(run("quick", seed, n) for seed, n in enumerate(shuffled)), *unclear])
    assert "is not shown" in said
    assert "It is faster" not in said
    assert "not claimed" in words([run("quick"), run("slow", seconds=9.0)])


def test_times_of_two_machines_are_not_compared():
    said = words(pairs(2.0, machine="two"))
    assert "It is faster" not in said


def test_a_bad_score_is_not_taken_for_its_speed():
    said = words([run("good", seconds=5.0), run("bad", seconds=0.1, score=0.5)])
    assert "take good" in said
    lower = {"higher_is_better": False, "score_name": "rmse"}
    said = words([run("good", score=1.0, **lower), run("bad", score=2.0, **lower)])
    assert "take good: rmse 1, " in said


@pytest.mark.parametrize("higher", [True, False])
def test_of_ways_whose_seeds_overlap_the_quickest_is_taken(higher):
    sign = 1 if higher else -1
    better = {"higher_is_better": higher}
    good = [run("good", i, 5.0, 10 + sign * x, **better) for i, x in enumerate((0, 2, 4))]
    near = [run("near", i, 1.0, 10 + sign * x, **better) for i, x in enumerate((-3, -2, 0.5))]
    far = [run("far", i, 0.5, 10 + sign * x, **better) for i, x in enumerate((-3, -2, -1.0))]
    said = words([*good, *near, *far])
    assert "take near" in said
    assert "of 2 with scores" in said


def test_the_front_is_what_no_other_beats_in_three_things():
    runs = [
        run("best", seconds=4.0, score=0.95, memory=4.0),
        run("quick", seconds=1.0, score=0.8, memory=4.0),
        run("small", seconds=5.0, score=0.8, memory=0.5),
        run("beaten", seconds=4.5, score=0.8, memory=4.0),
    ]
    found = pareto.ways(one_set(runs))
    assert {way.label for way in pareto.front(found, higher=True)} == {"best", "quick", "small"}
    (chart,) = pareto.charts(one_set(runs))
    assert {series.name: len(series.points) for series in chart.series} == {
        "no other beats it": 3,
        "beaten": 1,
    }


def ladder(order, factor=1.0):
    return [
        {"rtol": 10.0**-n, "error": 10.0**-n, "f_calls": factor * 10 ** (n / order),
         "seconds": 1e-3 * factor, "memory_bytes": 1000 * n}
        for n in range(2, 7)
    ]  # fmt: skip


def test_the_cost_of_an_error_is_read_between_the_rungs():
    rungs = precision.by_solver([precision.Measured(run("a"), ladder(2))], "f_calls")["a"]
    assert [rung.error for rung in rungs] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
    assert precision.to_reach(rungs, 10**-3.5) == pytest.approx(10**1.75)
    assert precision.to_reach(rungs, 1.0) == pytest.approx(10.0)  # nothing beyond the coarsest
    assert precision.to_reach(rungs, 1e-9) == math.inf


def test_profiles_are_shares_of_problems_within_a_factor_of_the_best():
    found = precision.ratios(
        [{"a": 1.0, "b": 3.0}, {"a": 4.0, "b": 2.0}, {"a": 5.0, "b": math.inf}]
    )
    assert found == {"a": [1.0, 1.0, 2.0], "b": [1.0, 3.0]}
    runs = [run("a", work_precision=ladder(4)), run("b", work_precision=ladder(4, 3.0))]
    drawn = {chart.name: chart for chart in precision.charts(sets(runs))}
    profile = drawn["profile-evaluations"]
    ends = {series.name: series.points for series in profile.series}
    assert max(p.y for p in ends["a"] if p.x == 1.0) == 1.0
    assert min(p.x for p in ends["b"] if p.y == 1.0) == pytest.approx(3.0)
    work = drawn["digits-smoke-error-evaluations"]
    assert [series.name for series in work.series] == ["a", "b"]  # the cheapest first
    assert all(len(series.points) == 5 for series in work.series)
    assert {"digits-smoke-error-time", "digits-smoke-memory-depth"} <= drawn.keys()


def test_a_curve_of_seeds_is_a_mean_between_the_least_and_the_largest():
    history = [[{"epoch": 1, "f_forward": 10.0 * n}, {"epoch": 2, "f_forward": 20}] for n in (1, 3)]
    runs = [run("a", seed, history=of_seed) for seed, of_seed in enumerate(history)]
    first, second = curves.curve(runs, "f_forward")
    assert first[:4] == (1, 20.0, 10.0, 30.0)
    assert second[:4] == (2, 20.0, None, None)
    names = [chart.name for chart in charts(sets(runs))]
    assert "digits-smoke-evaluations-epoch" in names
    assert "digits-smoke-evaluations-backward-epoch" not in names


def test_no_more_lines_than_can_be_told_apart():
    runs = [run(f"s{n:02d}", score=n / 100, history=[{"epoch": 1, "train_loss": 1.0}])
            for n in range(30)]  # fmt: skip
    (chart,) = (c for c in charts(sets(runs)) if c.name.endswith("training-loss"))
    assert [series.name for series in chart.series] == [f"s{n}" for n in range(29, 19, -1)]
    assert len(chart.series) == MOST_SERIES
    assert "Shown are the 10" in chart.caption
    assert len({series.style for series in styled([chart])[0].series}) == MOST_SERIES
