"""The one picture: how near the kernels come to a copy, and what a small step costs."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _BAR, _LEFT = 900, 16, 330


def picture(report: dict[str, Any]) -> str:
    """Return an SVG of bars with their goals."""
    rows: list[tuple[str, float, float, str]] = []
    kernels = report["speed"].get("kernels")
    if isinstance(kernels, dict):
        rows += [
            (name, value, kernels.get("goal", 0.85), "of a copy")
            for name, value in kernels.get("fractions", {}).items()
            if int(name.split()[-1]) >= 1 << 24
        ]
    small = report["speed"].get("a small step")
    if isinstance(small, dict):
        for loop, goal in (("eager", 90.0), ("graph", 25.0), ("graph_lag", 25.0)):
            if f"{loop}_us" in small:
                rows.append((f"a small step, {loop}", small[f"{loop}_us"], goal, "µs"))
    return bars(f"{report['machine']['device']}, torch {report['machine']['torch']}", rows)


def bars(title: str, rows: list[tuple[str, float, float, str]]) -> str:
    """Return an SVG with a bar for each name, value, goal and unit; a line marks the goal."""
    height = 50 + (_BAR + 6) * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<text x="10" y="24" font-size="15">{escape(title)}</text>',
    ]
    room = _WIDTH - _LEFT - 120
    for place, (name, value, goal, unit) in enumerate(rows):
        y = 40 + place * (_BAR + 6)
        # Half of the room is the goal.
        length, mark = min(value / goal / 2, 1.0) * room, room / 2
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="#4477aa"/>',
            f'<line x1="{_LEFT + mark:.1f}" x2="{_LEFT + mark:.1f}" y1="{y - 2}" '
            f'y2="{y + _BAR + 2}" stroke="#cc3311" stroke-width="2"/>',
            f'<text x="{_LEFT + room + 8}" y="{y + 12}">{value:.3g} {escape(unit)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
