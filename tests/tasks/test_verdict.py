"""What may be claimed from seeds: the paired test, its correction, and its words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy import stats

from ode_tasks.report.rows import Result
from ode_tasks.report.verdict import ONE_SEED, adjusted, paired, sections

OURS, CONTROL = "rk4_two_steps_direct", "no_block"


def test_the_test_is_students_paired_one():
    ours, theirs = [0.9, 0.8, 0.85, 0.95], [0.7, 0.75, 0.8, 0.7]
    found = paired([a - b for a, b in zip(ours, theirs, strict=True)])
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_holm_raises_p_for_the_number_of_comparisons():
    raised = adjusted([0.01, math.nan, 0.04, 0.03])
    assert math.isnan(raised[1])
    assert [raised[i] for i in (0, 2, 3)] == pytest.approx([0.03, 0.06, 0.06])


def runs(cell, scores, **fields):
    for seed, score in enumerate(scores):
        row = {"task": "cifar10", "preset": "quick", "study_cell": cell, "seed": seed}
        row |= {"model": "odenet" if cell == OURS else cell, "status": "ok", "score": score}
        row |= {"score_name": "accuracy", "higher_is_better": True, **fields}
        yield Result(row, Path("x"), Path("x"))


def compared(ours, control, **fields):
    ((table,),) = (s.tables for s in sections([*runs(OURS, ours), *runs(CONTROL, control)]))
    (row,) = table.rows
    return row


def test_nothing_is_claimed_from_one_seed():
    row = compared([0.9], [0.5])
    assert row["verdict"] == ONE_SEED == "one seed: no difference is claimed"
    assert (row["p"], row["difference"]) == ("", "+40 points")


def test_a_difference_is_claimed_where_seeds_agree_and_not_where_they_do_not():
    assert compared([0.9, 0.91, 0.89], [0.5, 0.52, 0.48])["verdict"] == "better"
    assert compared([0.5, 0.52, 0.48], [0.9, 0.91, 0.89])["verdict"] == "worse"
    assert compared([0.9, 0.3, 0.6], [0.5, 0.5, 0.5])["verdict"] == "no difference shown"
    assert compared([0.9, 0.3], [0.9, 0.3])["verdict"] == "equal in every seed"


def test_seeds_are_compared_with_the_same_seed_only():
    assert compared([0.9, 0.8, 0.7], [0.5])["seeds"] == "1"


def test_runs_of_no_study_are_not_judged():
    assert sections([*runs(None, [0.9, 0.8]), *runs("resnet", [0.5, 0.4])]) == []
