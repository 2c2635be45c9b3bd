"""The tables of a glucose study: each forecaster's seeds as one line, beside the baselines."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from ode_tasks.glucose_clinical import ZONES
from ode_tasks.glucose_compare import compared

Row = Mapping[str, Any]
"""What one run reports, or what it reports of one baseline."""

_RMSE = re.compile(r"rmse_(\d+)")
_BY = "forecast by"
_RIDGE, _ODE, _STILL = "ridge", "latent_ode", "latent_still"


class Summary(NamedTuple):
    """A title, rows under columns, all of them text, and sentences on how to read it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    notes: tuple[str, ...]


def summaries(forecasters: Mapping[str, Sequence[Row]]) -> list[Summary]:
    """Return the tables of forecasters, each by its name with a row for each seed.

    All have to be of the same windows; the baselines are those of the first row. Empty for none.
    """
    if not forecasters:
        return []
    seen = [rows[0] for rows in forecasters.values() if not rows[0].get("unseen_people")]
    unseen = [rows[0] for rows in forecasters.values() if rows[0].get("unseen_people")]
    first = (seen or unseen)[0]
    baselines = {_words(name): [row] for name, row in first["baselines"].items()}
    if seen and unseen:
        baselines |= {f"{_RIDGE} unseen": [unseen[0]["baselines"][_RIDGE]]}
    lines = {_words(name): rows for name, rows in forecasters.items()} | baselines
    minutes = sorted(int(match.group(1)) for key in first if (match := _RMSE.fullmatch(key)))
    ends = (minutes[len(minutes) // 2 - 1], minutes[-1]) if len(minutes) > 1 else tuple(minutes)
    made = [
        _errors(forecasters, lines, minutes, ends),
        _intervals(lines, ends),
        _paths(lines),
        _ranges(lines, ends),
        _grid(lines, ends),
    ]
    return [*made, *_ode(forecasters)]


def _errors(
    forecasters: Mapping[str, Sequence[Row]],
    lines: Mapping[str, Sequence[Row]],
    minutes: Sequence[int],
    ends: Sequence[int],
) -> Summary:
    gaps = {
        _words(name): compared(
            [row["per_person"] for row in rows], rows[0]["baselines"][_RIDGE]["per_person"]
        )
        for name, rows in forecasters.items()
    }
    columns = {f"{m} min": f"rmse_{m}" for m in minutes}
    rows = []
    for name, seeds in lines.items():
        row = {_BY: name, "seeds": str(len(seeds)) if name in gaps else ""}
        row |= {title: _spread(seeds, key) for title, key in columns.items()}
        for m in ends:
            row[f"{m} min, less ridge"] = _gap(gaps.get(name, {}).get(f"rmse_{m}"))
        rows.append(row)
    return Summary(
        "RMSE",
        tuple(rows[0]),
        tuple(rows),
        (
            "mg/dL, pooled over all windows of the test part; mean over seeds ± their standard "
            "deviation.",
            "Less ridge: the difference from ridge regression on the same windows, with its 95 % "
            "interval by a bootstrap over people, squared errors averaged over seeds; an interval "
            "without 0 is a difference. Where the people were never seen, neither did the ridge "
            "that it is compared with see them.",
        ),
    )


def _intervals(lines: Mapping[str, Sequence[Row]], ends: Sequence[int]) -> Summary:
    parts = {"within 90 %": ("coverage90", 100.0, "%"), "width": ("width90", 1.0, "")}
    parts["CRPS"] = ("crps", 1.0, "")
    return Summary(
        "90 % intervals",
        (_BY, *(f"{title}, {m} min" for m in ends for title in parts)),
        tuple(
            {_BY: name}
            | {
                f"{title}, {m} min": _spread(seeds, f"{key}_{m}", factor, unit)
                for m in ends
                for title, (key, factor, unit) in parts.items()
            }
            for name, seeds in lines.items()
        ),
        (
            "Share of readings within the interval, its mean width and the continuous ranked "
            "probability score in mg/dL. The networks' intervals are scaled on the validation "
            "part; a baseline's are the same for all windows, by its error there.",
        ),
    )


def _paths(lines: Mapping[str, Sequence[Row]]) -> Summary:
    columns = {
        "RMSE": "path_rmse",
        "MAE": "path_mae",
        "√ median of MSE": "path_root_median_mse",
        "median of MAE": "path_median_mae",
    }
    return _plain(
        "The whole hour: means, and medians over windows",
        lines,
        columns,
        (
            "mg/dL over all horizons of a window together. The medians are what some publications "
            "print; they leave out the windows in which something happens.",
        ),
    )


def _ranges(lines: Mapping[str, Sequence[Row]], ends: Sequence[int]) -> Summary:
    ranges = list(dict.fromkeys(r for seeds in lines.values() for r in seeds[0]["by_range"]))
    flat = {
        name: [
            {f"{r} {m}": row["by_range"].get(r, {}).get(f"rmse_{m}") for r in ranges for m in ends}
            for row in seeds
        ]
        for name, seeds in lines.items()
    }
    counts = next(iter(lines.values()))[0]["by_range"]
    return _plain(
        "RMSE by range of the true reading",
        flat,
        {f"{r}, {m} min": f"{r} {m}" for m in ends for r in ranges},
        (
            "mg/dL; readings: "
            + ", ".join(f"{counts[r][f'n_{ends[0]}']:.0f} {r}" for r in ranges if r in counts)
            + ".",
        ),
    )


def _grid(lines: Mapping[str, Sequence[Row]], ends: Sequence[int]) -> Summary:
    flat = {
        name: [
            {f"{z} {m}": 100.0 * row["clarke"][str(m)][z] for z in ZONES for m in ends}
            for row in seeds
        ]
        for name, seeds in lines.items()
    }
    return _plain(
        "Clarke error grid",
        flat,
        {f"{z}, {m} min": f"{z} {m}" for m in ends for z in ZONES},
        ("Share of forecasts in each zone, %.",),
    )


def _ode(forecasters: Mapping[str, Sequence[Row]]) -> list[Summary]:
    """Return what the ODE adds: each latent ODE less its control, whose path stands still."""
    rows = []
    for name, seeds in forecasters.items():
        control = forecasters.get(name.replace(_ODE, _STILL, 1))
        if not name.startswith(_ODE) or not control:
            continue
        gaps = compared([row["per_person"] for row in seeds], _mean(control))
        rows.append(
            {"comparison": f"{_words(name)} − {_words(name.replace(_ODE, _STILL, 1))}"}
            | {f"{key.removeprefix('rmse_')} min": _gap(gap) for key, gap in gaps.items()}
        )
    if not rows:
        return []
    notes = (
        "RMSE in mg/dL with the 95 % interval of a bootstrap over people: the same networks, with "
        "the ODE and with the identity in its place. Where 0 is inside, the ODE adds nothing that "
        "can be shown.",
    )
    return [Summary("Does the ODE add anything?", tuple(rows[0]), tuple(rows), notes)]


def _mean(seeds: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return each person's scores with squared errors averaged over the seeds."""
    people = seeds[0]["per_person"]
    return {
        person: {
            key: math.sqrt(fmean(row["per_person"][person][key] ** 2 for row in seeds))
            for key in scores
            if key.startswith(("rmse_", "n_"))
        }
        for person, scores in people.items()
    }


def _plain(
    title: str,
    lines: Mapping[str, Sequence[Row]],
    columns: Mapping[str, str],
    notes: tuple[str, ...],
) -> Summary:
    rows = tuple(
        {_BY: name} | {column: _spread(seeds, key) for column, key in columns.items()}
        for name, seeds in lines.items()
    )
    return Summary(title, (_BY, *columns), rows, notes)


def _spread(seeds: Sequence[Row], key: str, factor: float = 1.0, unit: str = "") -> str:
    """Return the mean of a figure over seeds and their standard deviation, empty without one."""
    found = [row.get(key) for row in seeds]
    values = [factor * v for v in found if isinstance(v, int | float) and math.isfinite(v)]
    if not values:
        return ""
    digits = 1 if unit == "%" else 2
    text = f"{fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {stdev(values):.{digits}f}"
    return f"{text} {unit}".rstrip()


def _gap(gap: Mapping[str, float] | None) -> str:
    if gap is None:
        return ""
    difference, low, high = (_signed(gap[part]) for part in ("difference", "low", "high"))
    return f"{difference} ({low} to {high})"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _words(name: str) -> str:
    return name.replace("_", " ")
