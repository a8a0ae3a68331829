"""A verification as a page in one file: verdict, plots, tables. No scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from fastconv.cli.svg_plot import Point, Series, scatter
from fastconv.cli.verify_report import COLUMNS, closing_line, row

if TYPE_CHECKING:
    from fastconv.verification.findings import TensorCheck, Verification

_LAYER = re.compile(r"(?:^|\.)(?:blk|layers|h|block)\.(\d{1,6})\.(.+)")
_ENDINGS = re.compile(r"^(self_attn|mlp|attention|feed_forward)\.|\.weight$")
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #667; --line: #d9dde3; --back: #fff; --good: #1a7f37;
  --bad: #c62828; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa3ad; --line: #333a42; --back: #14171b;
  --good: #4cc26a; --bad: #ff7b72; --card: #1d2228; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 1100px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.verdict { padding: .7rem 1rem; border-left: 5px solid; background: var(--card); border-radius: 4px; }
.good { border-color: var(--good); } .bad { border-color: var(--bad); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2), th:last-child, td:last-child { text-align: left; }
tr.off td { color: var(--bad); font-weight: 600; } svg { width: 100%; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; } svg .axis { stroke: var(--line); }
p.about { color: var(--soft); }
"""


def page(result: Verification) -> str:
    """The page as HTML."""
    verdict = "The file is fine." if result.is_fine else "The file is not what it should be."
    kind = "good" if result.is_fine else "bad"
    parts = [
        f"<h1>{escape(result.path)}</h1>",
        f'<div class="verdict {kind}"><b>{verdict}</b><br>{escape(closing_line(result))}</div>',
        _facts(result),
        _listing("What is wrong", [*map(str, result.findings), *(f"tensor {c.name}: {c.reason}" for c in result.off)]),
        _listing("Notes", result.notes),
    ]
    if result.tensors:
        parts += [_by_layer(result.tensors), _by_type(result.tensors), _deltas(result.tensors), _table(result.tensors)]
    title = f"{escape(result.path)}: verification"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _facts(result: Verification) -> str:
    facts = [("Format", result.format), ("Tensors", str(result.n_tensors))]
    if result.source is not None:
        facts.append(("Held against", result.source))
    facts += [("Adapter", adapter) for adapter in result.adapters]
    if result.checksum is not None:
        facts.append(("SHA-256", "as stated beside it" if result.checksum == "ok" else "not the one beside it"))
    return "<p>" + "<br>".join(f"{label}: <b>{escape(value)}</b>" for label, value in facts) + "</p>"


def _listing(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{title}</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _by_layer(checks: Iterable[TensorCheck]) -> str:
    series: dict[str, list[Point]] = defaultdict(list)
    for check in checks:
        match = _LAYER.search(check.name)
        if match and math.isfinite(check.snr_db):
            module = _ENDINGS.sub("", _ENDINGS.sub("", match[2]))
            series[module].append(Point(int(match[1]), check.snr_db, _label(check), check.state == "off"))
    if not series:
        return ""
    plot = scatter([Series(name, sorted(points)) for name, points in series.items()], "layer", "SNR in dB", joined=True)
    about = "Signal-to-noise ratio of every tensor against the merged source; higher is better. Equal values have none."
    return f'<h2>Error by layer</h2><p class="about">{about}</p>{plot}'


def _by_type(checks: Iterable[TensorCheck]) -> str:
    groups: dict[str, list[TensorCheck]] = defaultdict(list)
    for check in checks:
        if math.isfinite(check.snr_db):
            groups[check.type].append(check)
    if not groups:
        return ""
    ordered = sorted(groups, key=lambda name: min(check.snr_db for check in groups[name]))
    series = [
        Series(
            name,
            [
                # Spread over the width of the column, in the order of the file.
                Point(at + 0.6 * (i + 0.5) / len(groups[name]) - 0.3, check.snr_db, _label(check), check.state == "off")
                for i, check in enumerate(groups[name])
            ],
        )
        for at, name in enumerate(ordered)
    ]
    return f"<h2>Error by type</h2>{scatter(series, 'type', 'SNR in dB', names=ordered)}"


def _deltas(checks: Iterable[TensorCheck]) -> str:
    merged = [check for check in checks if check.delta_share is not None]
    if not merged:
        return ""
    points = [
        Point(index, check.delta_share or 0.0, f"{check.name}: {check.delta_share:.3f}", check.state == "off")
        for index, check in enumerate(merged)
    ]
    about = "How much of the adapters' change each tensor holds: 1 is all of it, 0 a forgotten adapter."
    plot = scatter([Series("share", points)], "merged tensors in the order of the file", "share of dW", base=(0.0, 1.0))
    return f'<h2>Adapters</h2><p class="about">{about}</p>{plot}'


def _table(checks: Iterable[TensorCheck]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in COLUMNS)
    body = "\n".join(
        f'<tr class="{check.state}" title="{escape(check.reason)}">'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row(check))
        + "</tr>"
        for check in checks
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<h2>Tensors</h2><div class="wide">{table}</div>'


def _label(check: TensorCheck) -> str:
    return f"{check.name} ({check.type}): {check.snr_db:.1f} dB, RMSE {check.rmse:.3g}"
