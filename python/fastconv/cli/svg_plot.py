"""Plots as inline SVG in their natural size: points over named columns, and a grid of shaded cells.

Knows nothing of what they mean; colours are the page's (classes axis, dot, cell, none, off, cross).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

_CHARACTER, _LONGEST = 6.7, 40  # pixels that a letter takes on average; letters of a label


class Mark(NamedTuple):
    """A point or a cell. value: None is no error at all. label: shown when pointed at. target: the id that it leads to.

    is_off: drawn to be noticed.
    """

    value: float | None
    label: str
    target: str
    is_off: bool = False


def columns(series: Mapping[str, Sequence[Mark]], y_label: str, *, base: Sequence[float] = ()) -> str:
    """Each series as a column of points, side by side in their order. base: values that the y axis holds in any case.

    Marks without a value are left out.
    """
    shown = {name: [mark for mark in marks if mark.value is not None] for name, marks in series.items()}
    left, top, height, bottom = 64, 12, 260, 34
    apart = min(7.0, 900 / sum(map(len, shown.values())))
    widths = [max(12 + apart * len(marks), 12 + _CHARACTER * len(_short(name)), 70) for name, marks in shown.items()]
    width = left + sum(widths) + 12
    ticks = _ticks([mark.value for marks in shown.values() for mark in marks if mark.value is not None] + list(base))

    def y_of(value: float) -> float:
        return top + height * (ticks[-1] - value) / (ticks[-1] - ticks[0])

    out = [_svg(width, top + height + bottom, f"{y_label} by column")]
    for tick in ticks:
        y = y_of(tick)
        out.append(f'<line class="axis" x1="{left}" x2="{width - 12:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(_text(left - 8, y + 4, f"{tick:g}", "end"))
    out.append(_upright(14, top + height / 2, y_label))
    x = float(left)
    for (name, marks), wide in zip(shown.items(), widths, strict=True):
        out.append(_text(x + wide / 2, top + height + 20, _short(name)))
        for index, mark in enumerate(marks):
            at, radius = x + 6 + (wide - 12) * (index + 0.5) / len(marks), 4.5 if mark.is_off else 3
            kind = "dot off" if mark.is_off else "dot"
            circle = f'<circle class="{kind}" cx="{at:.1f}" cy="{y_of(mark.value or 0.0):.1f}" r="{radius}">'
            out.append(_linked(mark, f"{circle}<title>{escape(mark.label)}</title></circle>"))
        x += wide
    return "\n".join([*out, "</svg>"])


def grid(
    rows: Mapping[str, Mapping[int, Mark]], x_label: str, first: str, unit: str, *, base: Sequence[float] = ()
) -> str:
    """Row by row the marks at their columns, the smaller the value the fuller. Column -1 is called `first`.

    The legend below says what shades mean. unit: of the values. base: values that the shades reach in any case.
    """
    columns = sorted({column for marks in rows.values() for column in marks})
    last = columns[-1]
    side, tall, gap = min(max(880 // max(last + 2, 1), 7), 26), 20, 14 if columns[0] < 0 else 0
    left, top = 16 + round(_CHARACTER * max(len(_short(name)) for name in rows)), 6
    below = top + tall * len(rows)
    width = max(left + gap + side * (last + 2) + 12, left + 470)
    values = [mark.value for marks in rows.values() for mark in marks.values() if mark.value is not None]
    ticks = _ticks([*values, *base] or [0.0])

    def shade(value: float) -> float:
        return 1 - 0.85 * (value - ticks[0]) / (ticks[-1] - ticks[0])

    def x_of(column: int) -> float:
        start = left + (side + gap if gap else 0)
        return left if column < 0 else start + side * column

    out = [_svg(width, below + 84, f"{unit} by {x_label}")]
    for index, (name, marks) in enumerate(rows.items()):
        y = top + tall * index
        out.append(_text(left - 8, y + 14, _short(name), "end"))
        for column, mark in marks.items():
            opacity = None if mark.value is None else shade(mark.value)
            cell = _cell(x_of(column), y, side - 1, tall - 1, opacity, mark.label, is_off=mark.is_off)
            out.append(_linked(mark, cell))
    if gap:
        out.append(_text(left + side / 2, below + 15, first))
    step = max(round(_round_step(last * (18 if last < 100 else 26) / (side * max(last, 1)))), 1) if last > 0 else 1
    out += [_text(x_of(n) + side / 2, below + 15, str(n)) for n in range(0, last + 1, step)]
    out.append(_text((x_of(0) + x_of(last) + side) / 2, below + 34, x_label))
    return "\n".join([*out, *_shades(left, below + 46, ticks, shade, unit), "</svg>"])


def _shades(x: float, y: float, ticks: Sequence[float], shade: Callable[[float], float], unit: str) -> list[str]:
    """The legend of a grid: what is off, what has no error, and values from the fullest to the lightest."""
    out = []
    wide = 34
    for label, opacity, is_off in (
        ("off", 0.0, True),
        ("no error", None, False),
        *((f"{tick:g}", shade(tick), False) for tick in ticks),
    ):
        out.append(_cell(x, y, wide - 1, 14, opacity, label, is_off=is_off))
        out.append(_text(x + wide / 2, y + 28, label))
        x += wide + (30 if opacity is None else 14 if is_off else 0)
    return [*out, _text(x + 8, y + 11, unit, "start")]


def _cell(x: float, y: float, wide: float, tall: float, opacity: float | None, label: str, *, is_off: bool) -> str:
    kind = "cell off" if is_off else "none" if opacity is None else "cell"
    fill = "" if is_off or opacity is None else f' fill-opacity="{opacity:.2f}"'
    title = f"<title>{escape(label)}</title>"
    rect = f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{wide}" height="{tall}"{fill}>{title}</rect>'
    if not is_off:
        return rect
    a, b, c, d = x + wide / 2 - 3, x + wide / 2 + 3, y + tall / 2 - 3, y + tall / 2 + 3
    return f'{rect}<path class="cross" d="M{a:.1f} {c:.1f} L{b:.1f} {d:.1f} M{a:.1f} {d:.1f} L{b:.1f} {c:.1f}"/>'


def _linked(mark: Mark, shape: str) -> str:
    return f'<a href="#{escape(mark.target)}">{shape}</a>'


def _svg(width: float, height: float, label: str) -> str:
    return f'<svg width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{escape(label)}">'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _upright(x: float, y: float, text: str) -> str:
    turned = f'transform="rotate(-90 {x:.0f} {y:.0f})"'
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle" {turned}>{escape(text)}</text>'


def _short(name: str) -> str:
    """Cut in its middle, so that begin and end tell it from others."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2 - 2]}...{name[1 - _LONGEST // 2 :]}"


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around the values, at least two."""
    low, high = min(values), max(values)
    step = _round_step((high - low) / 5 or 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * n for n in range(first, max(last, first + 1) + 1)]


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2, 5, 10) if step <= factor * power * (1 + 1e-9))
