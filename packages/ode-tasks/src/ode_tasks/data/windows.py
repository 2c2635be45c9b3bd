"""Cut glucose readings into forecasts to train, to choose and to test with, without leakage.

- A forecast starts at a reading, its origin. Its inputs are the actual readings of the 240 minutes
  up to the origin, which is one of them; nothing is interpolated.
- Its target for a horizon is the actual reading nearest to origin + horizon if that is within
  150 s, else it is missing.
- A gap above 15 minutes cuts a series; a window that reaches over a cut is dropped, and so is one
  whose stretch does not hold all of its history and horizons: there is a reading 240 minutes
  before the origin and one at the last horizon or after it, both to within those 150 s.
- What the person took in (meals, insulin) is known up to the origin, over the same 240 minutes.
- The first 80 % of a person's readings are for training, and of these the last 10 % for validation;
  the rest is the test. No window reaches from one part into another, neither with inputs nor with
  targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ode_core.errors import DataError
from ode_tasks.data.glucose import KINDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from ode_tasks.data.glucose import Series, Taken

HISTORY = 240 * 60.0
TOLERANCE = 150.0
GAP = 15 * 60.0
HORIZONS = (15, 30, 45, 60)
"""Minutes ahead; the others above in seconds."""

_GAP = np.timedelta64(int(GAP), "s")


class Windows(NamedTuple):
    """W forecasts of H horizons with room for L readings each.

    `subject` `[W]` counts the series, `origin` `[W]` is datetime64; `times` `[W, L]` float32 are
    hours from the origin (at most 0, ascending, the origin last) and `values` `[W, L]` float32 the
    readings in mg/dL, both 0 where `mask` `[W, L]` is False; `targets` `[W, H]` float32 in mg/dL
    are NaN where missing. `intake_times` `[W, K]` float32, hours from the origin, and `intakes`
    `[W, K, C]` float32, grams and units, are what was taken in of C kinds, both 0 where there is
    less than K; C is 0 where nobody kept a record.
    """

    subject: NDArray[np.int64]
    origin: NDArray[np.datetime64]
    times: NDArray[np.float32]
    values: NDArray[np.float32]
    mask: NDArray[np.bool_]
    targets: NDArray[np.float32]
    intake_times: NDArray[np.float32]
    intakes: NDArray[np.float32]

    def take(self, chosen: NDArray[np.int64]) -> Windows:
        """Return the windows at these positions."""
        return Windows._make(part[chosen] for part in self)


class Scale(NamedTuple):
    """Normalises readings: each person's mean, and one standard deviation for all.

    Both are of the training part without its validation; `means` is `[S]`, one a series, mg/dL: of
    a person never seen, the mean of those that were. `doses` `[C]` is the mean size of each kind of
    intake there, in grams and units.
    """

    means: NDArray[np.float64]
    std: float
    doses: NDArray[np.float64]

    def normal(
        self, values: NDArray[np.float32], subject: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return readings `[W, ...]` of the given people as normal ones."""
        means = self.means[subject].reshape(-1, *[1] * (values.ndim - 1))
        return ((values - means) / self.std).astype(np.float32)

    def mg_dl(self, normal: NDArray[np.float32], subject: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return normal readings `[W, ...]` of the given people in mg/dL."""
        means = self.means[subject].reshape(-1, *[1] * (normal.ndim - 1))
        return (normal * self.std + means).astype(np.float32)


class Parts(NamedTuple):
    """The windows of the three parts, and the normalisation from the first."""

    train: Windows
    validation: Windows
    test: Windows
    scale: Scale


def split(
    series: Sequence[Series],
    horizons: Sequence[int] = HORIZONS,
    *,
    unseen: Collection[int] = (),
) -> Parts:
    """Return the windows of all people for these horizons (minutes).

    With `unseen`, numbers of series, the test is on these people's test windows only, and nothing
    else is of them: not the training, not the validation, not the normalisation.
    Raises DataError where a part has no window, saying what the readings lack.
    """
    cuts = [_cuts(len(person.glucose)) for person in series]
    kinds = len(KINDS) if any(person.taken is not None for person in series) else 0
    seen = [number for number in range(len(series)) if number not in unseen]
    people = (seen, seen, list(unseen) or seen)
    train, validation, test = (
        _joined(
            _windows(series[n], n, slice(*cuts[n][part : part + 2]), horizons, kinds)
            for n in people[part]
        )
        for part in range(3)
    )
    for windows, purpose in ((train, "train"), (validation, "choose"), (test, "test")):
        if not len(windows.origin):
            raise DataError(_lacking(series, purpose))
    return Parts(train, validation, test, _scale(series, cuts, seen, kinds))


def folds(series: Sequence[Series], count: int) -> list[Parts]:
    """Return the parts to train and test with: one, or one a fold where people are left out.

    With a `count` above 1, each person is in one fold and never seen by those who forecast that
    fold; together the folds test on the same windows as without them. Raises DataError where there
    are fewer people than folds.
    """
    if count <= 1:
        return [split(series)]
    if count > len(series):
        raise DataError(
            f"{len(series)} people do not fill {count} folds of people never seen; ask for fewer"
        )
    return [split(series, unseen=range(fold, len(series), count)) for fold in range(count)]


def _scale(
    series: Sequence[Series],
    cuts: Sequence[tuple[int, int, int, int]],
    seen: Sequence[int],
    kinds: int,
) -> Scale:
    first = {n: series[n].glucose[: cuts[n][1]] for n in seen}
    of_seen = {n: readings.mean() for n, readings in first.items() if len(readings)}
    usual = float(np.mean(list(of_seen.values())))
    means = np.array([of_seen.get(n, usual) for n in range(len(series))])
    deviations = np.concatenate([readings - of_seen.get(n, usual) for n, readings in first.items()])
    return Scale(means, max(float(deviations.std()), 1.0), _doses(series, cuts, seen, kinds))


def _doses(
    series: Sequence[Series],
    cuts: Sequence[tuple[int, int, int, int]],
    seen: Sequence[int],
    kinds: int,
) -> NDArray[np.float64]:
    """Return the mean of the amounts above 0 of each kind within the training part, else 1."""
    amounts = [np.zeros((0, kinds))]
    for n in seen:
        taken, stop = series[n].taken, cuts[n][1]
        if taken is not None and stop > 0:
            amounts.append(taken.amounts[taken.times <= series[n].times[stop - 1]])
    every = np.concatenate(amounts)
    counts = (every > 0).sum(axis=0)
    means: NDArray[np.float64] = every.sum(axis=0) / np.maximum(counts, 1)
    return np.where(counts > 0, means, 1.0)


def _cuts(count: int) -> tuple[int, int, int, int]:
    """Return where the three parts of so many readings begin, and the end."""
    train = count * 80 // 100
    return 0, train * 90 // 100, train, count


def _windows(
    person: Series, number: int, part: slice, horizons: Sequence[int], kinds: int
) -> Windows:
    """Return the windows within one part of a person's readings."""
    clock, readings = person.times[part], person.glucose[part]
    seconds = (clock - person.times[:1]) / np.timedelta64(1, "s")
    begin, end = _stretches(seconds)
    enough = seconds - seconds[begin] >= HISTORY - TOLERANCE
    enough &= seconds[end] - seconds >= 60 * max(horizons) - TOLERANCE
    origin = np.flatnonzero(enough)
    # What lies beyond a gap is beyond the history and away from every horizon, too.
    first = np.searchsorted(seconds, seconds[origin] - HISTORY)
    room = int((origin - first).max(initial=0)) + 1
    index = origin[:, None] + np.arange(1 - room, 1)
    mask = index >= first[:, None]
    index = np.where(mask, index, origin[:, None])
    targets = [_target(seconds, readings, origin, ahead=60 * minutes) for minutes in horizons]
    return Windows(
        subject=np.full(len(origin), number),
        origin=clock[origin],
        times=((seconds[index] - seconds[origin, None]) / 3600).astype(np.float32),
        values=np.where(mask, readings[index], 0).astype(np.float32),
        mask=mask,
        targets=np.stack(targets, axis=1).astype(np.float32),
        **_taken(person.taken, clock[origin], kinds),
    )


def _taken(
    taken: Taken | None, origin: NDArray[np.datetime64], kinds: int
) -> dict[str, NDArray[np.float32]]:
    """Return what was taken in within the history of each origin: the two fields of `Windows`."""
    if taken is None:
        nothing = np.zeros((len(origin), 0), np.float32)
        return {"intake_times": nothing, "intakes": np.zeros((len(origin), 0, kinds), np.float32)}
    stop = np.searchsorted(taken.times, origin, side="right")
    history = np.timedelta64(int(HISTORY), "s")
    first = np.searchsorted(taken.times, origin - history, side="right")
    room = int((stop - first).max(initial=0))
    index = stop[:, None] + np.arange(-room, 0)
    mask = index >= first[:, None]
    index = np.where(mask, index, 0)
    hours = (taken.times[index] - origin[:, None]) / np.timedelta64(3600, "s")
    return {
        "intake_times": np.where(mask, hours, 0).astype(np.float32),
        "intakes": np.where(mask[..., None], taken.amounts[index], 0).astype(np.float32),
    }


def _stretches(seconds: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each reading where its stretch without a gap begins, and its last reading."""
    cuts = np.flatnonzero(np.diff(seconds) > GAP) + 1
    starts, ends = np.append(0, cuts), np.append(cuts, len(seconds))
    lengths = ends - starts
    return np.repeat(starts, lengths), np.repeat(ends - 1, lengths)


def _target(
    seconds: NDArray[np.float64],
    readings: NDArray[np.float64],
    origin: NDArray[np.int64],
    *,
    ahead: float,
) -> NDArray[np.float64]:
    """Return the reading nearest to `ahead` seconds after each origin, NaN if none is near."""
    goal = seconds[origin] + ahead
    after = np.searchsorted(seconds, goal)
    distance = np.full(len(origin), np.inf)
    target = np.full(len(origin), np.nan)
    for candidate in (after - 1, after):
        place = np.clip(candidate, origin + 1, len(seconds) - 1)
        away = np.abs(seconds[place] - goal)
        nearer = (away < distance) & (away <= TOLERANCE)
        distance[nearer], target[nearer] = away[nearer], readings[place[nearer]]
    return target


def _joined(parts: Iterable[Windows]) -> Windows:
    """Return all windows, those with fewer readings padded at the start."""
    parts = list(parts)
    ragged = ("times", "values", "mask", "intake_times", "intakes")
    room = {name: max(getattr(part, name).shape[1] for part in parts) for name in ragged}
    padded = [
        part._replace(**{name: _pad(getattr(part, name), room[name]) for name in ragged})
        for part in parts
    ]
    return Windows._make(np.concatenate(columns) for columns in zip(*padded, strict=True))


def _pad(values: NDArray[Any], room: int) -> NDArray[Any]:
    return np.pad(values, ((0, 0), (room - values.shape[1], 0), *[(0, 0)] * (values.ndim - 2)))


def _lacking(series: Sequence[Series], purpose: str) -> str:
    stretches = [np.split(s.times, np.flatnonzero(np.diff(s.times) > _GAP) + 1) for s in series]
    longest = max(times[-1] - times[0] for person in stretches for times in person)
    return (
        f"the readings leave no forecast to {purpose} with: {len(series)} people, "
        f"{sum(len(person.times) for person in series)} readings, "
        f"the longest stretch without a gap above 15 minutes {longest.astype('timedelta64[m]')}; "
        "a forecast takes 5 hours without such a gap within the first 72 %, the next 8 % and the "
        "last 20 % of a person's readings each, which is some 3 days of readings"
    )
