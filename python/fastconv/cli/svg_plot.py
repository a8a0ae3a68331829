"""Points on two axes as inline SVG. Knows nothing of what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 1000, 340, 56, 44, 12, 190
# Okabe and Ito's colours, which colour-blind readers tell apart, and two greys.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#888888", "#5b4b8a")
_MARKED = "#c62828"


class Point(NamedTuple):
    """x, y: in the axes' units. label: shown when pointed at. is_marked: drawn to be noticed."""

    x: float
    y: float
    label: str
    is_marked: bool = False


class Series(NamedTuple):
    name: str
    points: Sequence[Point]


def scatter(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    names: Sequence[str] = (),
    joined: bool = False,
    base: tuple[float, float] | None = None,
) -> str:
    """The plot as one <svg>. names: of x = 0, 1, 2 ..., instead of numbers. joined: points of a series by a line.

    base: values that the y axis holds in any case.
    """
    points = [point for one in series for point in one.points]
    last = len(names) - 0.5 if names else max(point.x for point in points)
    x0, x1 = (-0.5, last) if names else (0.0, max(last, 1.0))
    ticks = _ticks([point.y for point in points] + list(base or ()))
    y0, y1 = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x0) / (x1 - x0) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - (y - y0) / (y1 - y0) * (_HEIGHT - _BOTTOM - _TOP),
        )

    out = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)} by {escape(x_label)}">']
    for tick in ticks:
        x, y = place(x0, tick)
        out.append(f'<line class="axis" x1="{x:.1f}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for at, name in enumerate(names) if names else ((tick, f"{tick:g}") for tick in _whole_ticks(x1)):
        x, y = place(at, y0)
        out.append(f'<text x="{x:.1f}" y="{y + 17:.1f}" text-anchor="middle">{escape(name)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    out.append(f'<text x="{middle:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f"rotate(-90 14 {_HEIGHT / 2:.0f})"
    out.append(f'<text x="14" y="{_HEIGHT / 2:.0f}" text-anchor="middle" transform="{turned}">{escape(y_label)}</text>')
    for index, one in enumerate(series):
        colour = _COLOURS[index % len(_COLOURS)]
        if joined and len(one.points) > 1:
            path = " ".join("{:.1f},{:.1f}".format(*place(point.x, point.y)) for point in one.points)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-opacity=".45"/>')
        for point in one.points:
            x, y = place(point.x, point.y)
            radius, fill = (6, _MARKED) if point.is_marked else (3, colour)
            title = f"<title>{escape(point.label)}</title>"
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}">{title}</circle>')
        if len(series) > 1 and not names:
            y = _TOP + 14 + 17 * index
            out.append(f'<circle cx="{_WIDTH - _RIGHT + 16}" cy="{y - 4}" r="4" fill="{colour}"/>')
            out.append(f'<text x="{_WIDTH - _RIGHT + 26}" y="{y}">{escape(one.name)}</text>')
    return "\n".join([*out, "</svg>"])


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around the values, at least two."""
    low, high = min(values), max(values)
    step = _round_step((high - low) / 5 or 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * n for n in range(first, max(last, first + 1) + 1)]


def _whole_ticks(last: float) -> list[float]:
    step = max(round(_round_step(last / 10)), 1)
    return [float(n) for n in range(0, int(last) + 1, step)]


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2, 5, 10) if step <= factor * power * (1 + 1e-9))
