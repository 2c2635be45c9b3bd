"""The protocol: what a forecast may see, what it is asked, and which forecasts there are."""

from __future__ import annotations

import numpy as np
import pytest

from ode_core import DataError
from ode_tasks.data.glucose import Series, Taken, load
from ode_tasks.data.patients import cohort
from ode_tasks.data.windows import HORIZONS, folds, split

START = np.datetime64("2024-03-01T00:00:00", "ms")


def series(seconds, glucose=None, subject="a"):
    seconds = np.asarray(seconds, dtype=np.float64)
    if glucose is None:
        glucose = 120 + 30 * np.sin(seconds / 5000) + np.arange(len(seconds)) % 7
    times = START + (1000 * seconds).astype("timedelta64[ms]")
    return Series(subject, times, np.asarray(glucose, dtype=np.float64))


def regular(count=1000, **options):
    return series(300.0 * np.arange(count), **options)


def irregular(seed, count=1600):
    """Return readings with a wandering clock, missing ones, gaps and quick repetitions."""
    rng = np.random.default_rng(seed)
    steps = 300 + rng.integers(-20, 21, count)
    steps[rng.random(count) < 0.03] = 610
    steps[rng.random(count) < 0.01] = rng.choice([899, 900, 901, 4000])
    steps[rng.random(count) < 0.02] = 60
    return series(np.cumsum(steps), rng.integers(60, 300, count))


def by_hand(person):
    """Return the windows of one person from the definition, one reading at a time."""
    seconds = (person.times - person.times[0]) / np.timedelta64(1, "s")
    train = int(0.8 * len(seconds))
    parts = []
    for low, high in ((0, int(0.9 * train)), (int(0.9 * train), train), (train, len(seconds))):
        windows = {}
        for origin in range(low, high):
            first = last = origin
            while first > low and seconds[first] - seconds[first - 1] <= 900:
                first -= 1
            while last < high - 1 and seconds[last + 1] - seconds[last] <= 900:
                last += 1
            now = seconds[origin]
            if now - seconds[first] < 240 * 60 - 150 or seconds[last] - now < 60 * 60 - 150:
                continue
            inputs = [i for i in range(first, origin + 1) if now - seconds[i] <= 240 * 60]
            targets = []
            for horizon in HORIZONS:
                ahead = range(origin + 1, last + 1)
                near = min(ahead, key=lambda i: abs(seconds[i] - now - 60 * horizon))
                within = abs(seconds[near] - now - 60 * horizon) <= 150
                targets.append(person.glucose[near] if within else np.nan)
            windows[person.times[origin]] = (person.glucose[inputs], targets)
        parts.append(windows)
    return parts


@pytest.mark.parametrize("seed", range(6))
def test_the_windows_are_those_of_the_definition(seed):
    person = irregular(seed)
    for windows, expected in zip(split([person])[:3], by_hand(person), strict=True):
        assert list(windows.origin) == list(expected)
        for row, (inputs, targets) in enumerate(expected.values()):
            used = windows.mask[row]
            assert windows.values[row][used].tolist() == inputs.tolist()
            np.testing.assert_array_equal(windows.targets[row], np.float32(targets))


def test_a_window_ends_with_its_origin_and_holds_240_minutes():
    windows = split([regular()]).train
    assert windows.mask.all()
    assert windows.mask.shape[1] == 49
    assert (windows.times[:, -1] == 0).all()
    np.testing.assert_allclose(windows.times[:, 0], -4, rtol=1e-6)
    assert (np.diff(windows.times, axis=1) > 0).all()
    lookup = dict(zip(regular().times, regular().glucose, strict=True))
    for origin, last in zip(windows.origin, windows.values[:, -1], strict=True):
        assert np.float32(lookup[origin]) == last


def test_the_first_80_percent_of_each_person_train_and_no_window_straddles():
    people = [regular(1000), regular(937, subject="b")]
    parts = split(people)
    for number, person in enumerate(people):
        count = len(person.times)
        train, first = int(0.8 * count), int(0.9 * int(0.8 * count))
        for windows, low, high in zip(
            parts[:3], (0, first, train), (first, train, count), strict=True
        ):
            origins = windows.origin[windows.subject == number]
            # 48 intervals of history and 12 ahead: each part loses 48 origins and 12.
            assert len(origins) == high - low - 60
            assert origins[0] == person.times[low + 48]
            assert origins[-1] == person.times[high - 1 - 12]


def test_a_gap_above_15_minutes_cuts_and_one_of_15_does_not():
    for gap, lost in ((900, 0), (901, 60)):
        seconds = 300.0 * np.arange(1000)
        seconds[400:] += gap - 300
        found = split([series(seconds)]).train
        assert len(found.origin) == 720 - 60 - lost
        before = found.origin[found.origin < START + np.timedelta64(120_000, "s")]
        after = found.origin[found.origin >= START + np.timedelta64(120_000, "s")]
        if lost:
            assert before[-1] == START + np.timedelta64(300 * (399 - 12), "s")
            assert after[0] == START + np.timedelta64(300 * (400 + 48) + 601, "s")


@pytest.mark.parametrize(("late", "known"), [(150, True), (151, False), (-150, True)])
def test_a_target_is_the_nearest_reading_within_150_s(late, known):
    seconds = 300.0 * np.arange(1000)
    seconds = np.delete(seconds, [105, 107])  # leaves reading 106 alone
    seconds[105] += late
    person = series(seconds)
    windows = split([person]).train
    row = list(windows.origin).index(person.times[100])
    value = windows.targets[row, HORIZONS.index(30)]
    assert (value == np.float32(person.glucose[105])) if known else np.isnan(value)


def test_readings_after_the_origin_never_change_an_input():
    rng = np.random.default_rng(0)
    person = irregular(3)
    before = split([person])
    for windows in before[:3]:
        for row in rng.choice(len(windows.origin), 5, replace=False):
            origin = windows.origin[row]
            later = person.times > origin
            changed = person._replace(glucose=np.where(later, 999.0, person.glucose))
            after = next(
                (part, list(part.origin).index(origin))
                for part in split([changed])[:3]
                if origin in part.origin
            )
            for name in ("times", "values", "mask"):
                was, now = getattr(windows, name)[row], getattr(after[0], name)[after[1]]
                np.testing.assert_array_equal(was, now)
            known = ~np.isnan(windows.targets[row])
            assert (after[0].targets[after[1]][known] == 999).all()


def test_the_test_part_never_changes_training_validation_or_normalisation():
    people = [irregular(1), irregular(2)._replace(subject="b")]
    cuts = [int(0.8 * len(person.times)) for person in people]
    moved = []
    for person, cut in zip(people, cuts, strict=True):
        glucose, times = person.glucose.copy(), person.times.copy()
        glucose[cut:] = 400
        times[cut:] += np.timedelta64(77, "s")
        moved.append(person._replace(glucose=glucose, times=times))
    before, after = split(people), split(moved)
    for one, two in zip(before[:2], after[:2], strict=True):
        for was, now in zip(one, two, strict=True):
            np.testing.assert_array_equal(was, now)
    np.testing.assert_array_equal(before.scale.means, after.scale.means)
    assert before.scale.std == after.scale.std
    assert not np.array_equal(before.test.values, after.test.values)


def test_the_validation_part_never_changes_the_normalisation():
    person = regular()
    changed = person.glucose.copy()
    changed[720:] = 350
    scales = [split([p]).scale for p in (person, person._replace(glucose=changed))]
    assert scales[0].means == scales[1].means == person.glucose[:720].mean()
    assert scales[0].std == scales[1].std == pytest.approx(person.glucose[:720].std())


def test_the_normalisation_is_each_persons_mean_and_is_undone():
    people = [regular(), regular(subject="b")]
    people[1] = people[1]._replace(glucose=people[1].glucose + 80)
    parts = split(people)
    assert parts.scale.means[1] - parts.scale.means[0] == pytest.approx(80)
    windows = parts.train
    normal = parts.scale.normal(windows.values, windows.subject)
    assert abs(normal.mean()) < 0.1
    assert normal.std() == pytest.approx(1, abs=0.1)
    back = parts.scale.mg_dl(normal, windows.subject)
    np.testing.assert_allclose(back, windows.values, rtol=1e-5)


def test_windows_with_fewer_readings_are_padded_at_the_start():
    seconds = np.delete(300.0 * np.arange(1000), [60, 61, 200])
    windows = split([series(seconds)]).train
    short = ~windows.mask.all(axis=1)
    assert short.any()
    assert (windows.mask.sum(axis=1)[short] >= 46).all()
    assert windows.mask[:, -1].all()
    assert (windows.values[~windows.mask] == 0).all()
    assert (windows.times[~windows.mask] == 0).all()


def test_a_person_with_little_data_is_no_obstacle():
    few = regular(1, subject="b")
    parts = split([regular(), few, regular(40, subject="c")])
    assert set(parts.train.subject) == {0}
    assert len(parts.test.origin) == 140


def test_too_few_readings_are_refused_with_what_is_needed():
    with pytest.raises(DataError) as caught:
        split([regular(200)])
    assert "200 readings" in str(caught.value)
    assert "5 hours" in str(caught.value)
    hourly = series(3600.0 * np.arange(500))
    with pytest.raises(DataError, match="no forecast to train"):
        split([hourly])


def test_the_embedded_cohort_has_windows_of_everybody():
    parts = split(cohort().series)
    for windows in (parts.train, parts.test):
        assert set(windows.subject) == set(range(8))
    assert len(set(parts.validation.subject)) > 4  # a gap takes the windows of some


def test_the_people_of_hall_give_4863_test_windows(shared_data):
    parts = split(load(shared_data / "cgm/hall2018_subset19.csv").series)
    assert len(parts.test.origin) == 4_863
    assert len(set(parts.test.subject)) == 19


def eating(person, hours, amounts):
    """Return the person with intakes so many hours after the first reading."""
    times = person.times[0] + (3600_000 * np.asarray(hours)).astype("timedelta64[ms]")
    return person._replace(taken=Taken(times, np.asarray(amounts, dtype=np.float64)))


def test_what_was_taken_in_is_known_up_to_the_origin_over_the_history():
    hours = [5.0, 6.5, 6.5 + 1 / 60]
    person = eating(regular(), hours, [[40, 0], [0, 3], [20, 0]])
    windows = split([person]).train
    ages = (windows.origin - person.times[0]) / np.timedelta64(3600, "s")
    for row in range(0, len(ages), 3):
        known = [
            (hour - ages[row], *amounts)
            for hour, amounts in zip(hours, person.taken.amounts, strict=True)
            if ages[row] - 4 < hour <= ages[row] + 1e-9
        ]
        there = windows.intakes[row].any(axis=1)
        found = np.column_stack((windows.intake_times[row], windows.intakes[row]))[there]
        np.testing.assert_allclose(found, np.reshape(known, (-1, 3)), atol=1e-5)
        assert (windows.intake_times[row, ~there] == 0).all()


def test_the_dose_is_the_mean_of_the_training_parts_intakes():
    person = eating(regular(), [1, 2, 3, 70], [[40, 0], [20, 0], [0, 3], [900, 900]])
    np.testing.assert_allclose(split([person]).scale.doses, [30, 3])
    nothing = split([eating(regular(), [], np.zeros((0, 2)))])
    np.testing.assert_allclose(nothing.scale.doses, [1, 1])
    assert nothing.train.intakes.shape[2] == 2
    assert split([regular()]).train.intakes.shape[2] == 0


def test_people_with_and_without_a_record_stand_side_by_side():
    parts = split([eating(regular(), [50.0], [[40, 0]]), regular(subject="b")])
    assert parts.train.intakes.shape[2] == 2
    assert parts.train.intakes[parts.train.subject == 0].any()
    assert not parts.train.intakes[parts.train.subject == 1].any()


def people(count):
    saw = np.arange(1000) % 13
    return [regular(glucose=90 + 10 * n + saw, subject=str(n)) for n in range(count)]


def test_each_person_is_unseen_in_one_fold_and_the_folds_test_on_the_same_windows():
    parts = folds(people(5), 2)
    assert [sorted(set(part.test.subject)) for part in parts] == [[0, 2, 4], [1, 3]]
    for part in parts:
        for windows in (part.train, part.validation):
            assert not set(windows.subject) & set(part.test.subject)
    whole = split(people(5)).test
    tested = np.concatenate([part.test.targets for part in parts])
    assert len(tested) == len(whole.targets)
    assert sorted(map(tuple, tested)) == sorted(map(tuple, whole.targets))
    assert len(folds(people(5), 1)) == 1
    with pytest.raises(DataError, match="2 people do not fill 3 folds"):
        folds(people(2), 3)


def test_nothing_of_an_unseen_person_reaches_what_is_trained_or_normalised_with():
    before, after = people(4), people(4)
    after[1] = after[1]._replace(glucose=after[1].glucose + 100)
    one, two = (split(series, unseen=[1]) for series in (before, after))
    for part in ("train", "validation"):
        np.testing.assert_array_equal(getattr(one, part).values, getattr(two, part).values)
    np.testing.assert_array_equal(one.scale.means, two.scale.means)
    assert one.scale.std == two.scale.std
    seen = [0, 2, 3]
    assert one.scale.means[1] == pytest.approx(one.scale.means[seen].mean())
