"""A verification as a page in one file: verdict, plots, tables. Nothing is loaded from elsewhere.

verify_page.html is the frame. Its script sorts tables; the page's policy lets no other run, whatever tensors are named.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from string import Template
from typing import TYPE_CHECKING, NamedTuple

from fastconv.cli.report import text_of
from fastconv.cli.svg_plot import Mark, columns, grid
from fastconv.cli.verify_report import counted, kinds, number, problems, share, snr, states
from fastconv.errors import printable

if TYPE_CHECKING:
    from fastconv.verification.findings import TensorCheck, Verification

_LAYER = re.compile(r"(?:^|\.)(?:blk|layers|h|block)\.(\d{1,3})\.(.+)")
_ENDINGS = re.compile(r"^(self_attn|mlp|attention|feed_forward)\.|\.weight$")
_OTHER_NUMBER = re.compile(r"\d+(?=\.)")


class _Head(NamedTuple):
    """A column of the table of tensors. kind: classes of its cells; numbers need none."""

    name: str
    about: str
    kind: str = ""


class _Cell(NamedTuple):
    """value: what the column is sorted by."""

    text: str
    value: str


_HEADS = (
    _Head("tensor", "name in the file", "text name"),
    _Head("type", "how its values are stored", "text"),
    _Head("shape", "rows x columns", "text"),
    _Head("verdict", "exact, close, off or unchecked", "text"),
    _Head("RMSE", "root of the mean squared error, in units of the weights"),
    _Head("max error", "largest error of a single weight"),
    _Head("SNR (dB)", "signal-to-noise ratio in decibels; higher is better"),
    _Head("cosine", "of the angle between the file's values and the source's; 1 is the same direction"),
    _Head("same blocks", "how many blocks are, byte for byte, what the source encodes to"),
    _Head("share of dW", "part of the adapters' change that is in the file; 1 is all of it"),
    _Head("what is wrong", "and where", "text reason"),
)
_EXPLAINED = (
    ("exact", "Byte for byte what the source encodes to."),
    ("close", "Other bytes, from another encoder or another order of arithmetic, within what the type reaches."),
    ("off", "Not what it should be: the reason says what is wrong and where, rows and columns counted from 0."),
    ("unchecked", "Of a type that can be neither decoded nor made here."),
    (
        "RMSE",
        "Root mean square of the differences between the file's values and the source's, in units of the weights.",
    ),
    (
        "SNR",
        "Mean square of the source's values over that of the differences, in decibels: 10 dB more is a tenth of the "
        "squared error. Every type has its own level; a tensor far from others of its type deserves a look.",
    ),
    (
        "dW",
        "What the adapters (LoRA) add to the weights. A share of 0 is a forgotten adapter, 1 one that is all there.",
    ),
)


def page(result: Verification) -> str:
    """The page as HTML."""
    body = [
        f"<h1>{escape(os.path.basename(result.path.rstrip('/')) or result.path)}</h1>",
        f'<p class="verdict {"good" if result.is_fine else "bad"}">{escape(_verdict(result))}</p>',
        _facts(result),
        _wrong(result),
        _section("Notes", "", "".join(f"<li>{escape(note)}</li>" for note in result.notes), "ul"),
    ]
    if result.tensors:
        ids = {check.name: f"t{index}" for index, check in enumerate(result.tensors)}
        body += [_by_layer(result.tensors, ids), _by_type(result.tensors, ids), _deltas(result.tensors, ids)]
        body += [_tensors(result.tensors, ids), _explained()]
    frame, script = _beside("html"), _beside("js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    title = f"{escape(printable(result.path))}: {'fine' if result.is_fine else 'NOT fine'}"
    return Template(frame).substitute(
        title=title,
        script=script,
        script_hash=f"sha256-{digest}",
        body=text_of("\n".join(filter(None, body)).split("\n")),
    )


def _beside(suffix: str) -> str:
    with open(f"{os.path.splitext(__file__)[0]}.{suffix}", encoding="utf-8") as file:
        return file.read()


def _verdict(result: Verification) -> str:
    if not result.is_fine:
        rules = [counted(len(result.findings), "rule") + " broken"] if result.findings else []
        tensors = [f"{counted(len(result.off), 'tensor')} of {result.n_tensors} off"] if result.off else []
        return f"The file is not what it should be: {', '.join([*tensors, *rules])}."
    if result.source is None:
        return "Nothing is wrong with the file itself. It was not held against a source."
    return "The file is fine: every tensor that could be checked is what its source should give."


def _facts(result: Verification) -> str:
    """A line for each thing that was checked, or was not."""
    rules = counted(len(result.findings), "rule") + " broken" if result.findings else "all rules of the format are kept"
    sums = {None: "none stands beside it", "ok": "as stated beside it", "off": "not the one that is stated beside it"}
    values = states(result) or "none compared"
    if result.format == "unreadable":
        rules = values = "not checked: the file cannot be read"
    elif result.source is None:
        values = "every value looked through for NaN and infinity; not compared, for no source was given (--against)"
    facts = [
        ("File", result.path, False),
        ("Format", f"{result.format}, {counted(result.n_tensors, 'tensor')}", False),
        *([("Source", result.source, False)] if result.source is not None else []),
        *(("Adapter", adapter, False) for adapter in result.adapters),
        ("Structure, metadata", rules, bool(result.findings)),
        ("Values", values, bool(result.off)),
        ("SHA-256", sums[result.checksum], result.checksum == "off"),
    ]
    lines = (
        f'<dt>{label}</dt><dd class="{"bad" if is_bad else ""}">{escape(fact)}</dd>' for label, fact, is_bad in facts
    )
    return f"<dl>{''.join(lines)}</dl>"


def _wrong(result: Verification) -> str:
    items = [f"<li>{escape(str(finding))}</li>" for finding in result.findings]
    for problem in problems(result.off):
        first = f" (figures of {problem.tensors[0]})" if problem.has_figures else ""
        names = ", ".join(f"<code>{escape(kind)}</code>" for kind in kinds(problem.tensors))
        where = f"<b>{counted(len(problem.tensors), 'tensor')}</b>: {escape(problem.what + first)}"
        items.append(f"<li>{where}<br>{names}</li>")
    return _section("What is wrong", "", "".join(items), "ul")


def _by_layer(checks: Sequence[TensorCheck], ids: dict[str, str]) -> str:
    cells: dict[str, dict[int, list[TensorCheck]]] = defaultdict(lambda: defaultdict(list))
    for check in checks:
        if not math.isnan(check.snr_db) or check.state == "off":
            match = _LAYER.search(check.name)
            module = _ENDINGS.sub("", _ENDINGS.sub("", match[2] if match else check.name))
            cells[_OTHER_NUMBER.sub("*", module)][int(match[1]) if match else -1].append(check)
    if not cells:
        return ""
    # Tensors of all layers first, in the order of the file, then those of none.
    ordered = sorted(cells, key=lambda module: max(cells[module]) < 0)
    rows = {module: {layer: _worst(found, ids) for layer, found in cells[module].items()} for module in ordered}
    about = (
        "Each cell is a tensor, by its layer and its part of the layer; the fuller the colour, the larger the error, "
        "as a signal-to-noise ratio. Point at a cell for its figures, click for its row in the table."
    )
    return _section("Error by layer", about, grid(rows, "layer", "none", "SNR in dB", base=_span(checks)), "wide")


def _by_type(checks: Sequence[TensorCheck], ids: dict[str, str]) -> str:
    groups: dict[str, list[TensorCheck]] = defaultdict(list)
    for check in checks:
        groups[check.type].append(check)
    medians = {
        name: statistics.median([c.snr_db for c in found]) for name, found in groups.items() if _has_errors(found)
    }
    ordered = sorted(medians, key=lambda name: medians[name])
    series = {name: [_mark(check, ids) for check in groups[name]] for name in ordered}
    plot = columns(series, "SNR in dB", base=_span(checks)) if series else ""
    rows = []
    for name in sorted(groups, key=lambda name: medians.get(name, math.inf)):
        found = [check for check in groups[name] if not math.isnan(check.snr_db)]
        levels = sorted(found, key=lambda check: check.snr_db)
        lowest, middle = (snr(levels[0]), snr(levels[(len(levels) - 1) // 2])) if levels else ("", "")
        worst = escape(levels[0].name) if _has_errors(levels) else ""
        counts = (str(len(groups[name])), str(sum(check.state == "off" for check in groups[name])))
        cells = "".join(f"<td>{cell}</td>" for cell in (*counts, middle, lowest))
        rows.append(f'<tr><td class="text">{escape(name)}</td>{cells}<td class="text">{worst}</td></tr>')
    heads = "<th>tensors</th><th>off</th><th>median SNR (dB)</th><th>lowest SNR (dB)</th>"
    table = (
        f'<table><thead><tr><th class="text">type</th>{heads}<th class="text">lowest in</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    about = (
        "Each point is a tensor, in the order of the file; higher is better. Tensors of one type lie close together; "
        "those without error have no point."
    )
    return _section("Error by type", about, plot + table, "wide")


def _deltas(checks: Iterable[TensorCheck], ids: dict[str, str]) -> str:
    groups: dict[str, list[Mark]] = defaultdict(list)
    for check in checks:
        if check.delta_share is not None:
            label = f"{check.name}: {check.delta_share:.3f} of dW"
            groups[check.type].append(Mark(check.delta_share, label, ids[check.name], check.state == "off"))
    if not groups:
        return ""
    about = (
        "How much of the adapters' change (dW) each merged tensor holds, by type, in the order of the file: 1 is all "
        "of it, 0 a forgotten adapter. Small changes are lost in coarse types, which then scatter around 1."
    )
    return _section("Adapters", about, columns(groups, "share of dW", base=(0.0, 1.0)), "wide")


def _tensors(checks: Sequence[TensorCheck], ids: dict[str, str]) -> str:
    rows = [_cells(check) for check in checks]
    kept = [column for column in range(len(_HEADS)) if any(cells[column].text for cells in rows)]
    heads = "".join(
        f'<th class="{head.kind}" title="{escape(head.about)}"><button>{head.name}</button></th>'
        for head in (_HEADS[column] for column in kept)
    )
    body = "\n".join(
        f'<tr id="{ids[check.name]}" class="{check.state}">{"".join(_shown(_HEADS[at], cells[at]) for at in kept)}</tr>'
        for check, cells in zip(checks, rows, strict=True)
    )
    table = f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table>'
    return _section("Tensors", "Click a title to sort by it, once more for the other way.", table, "wide tall")


def _cells(check: TensorCheck) -> tuple[_Cell, ...]:
    """Those of _HEADS."""
    same = check.blocks - check.differing
    blocks = f"{same} of {check.blocks}" if check.differing else "all"
    return (
        _Cell(check.name, check.name),
        _Cell(check.type, check.type),
        _Cell(" x ".join(map(str, check.shape)), str(math.prod(check.shape))),
        _Cell(check.state, check.state),
        _Cell(number(check.rmse), _sortable(check.rmse)),
        _Cell(number(check.max_error), _sortable(check.max_error)),
        _Cell(snr(check), _sortable(check.snr_db)),
        _Cell("" if math.isnan(check.cosine) else f"{check.cosine:.6f}", _sortable(check.cosine)),
        _Cell(blocks, str(same / check.blocks)) if check.blocks else _Cell("", ""),
        _Cell(share(check), _sortable(math.nan if check.delta_share is None else check.delta_share)),
        _Cell(check.reason, check.reason),
    )


def _shown(head: _Head, cell: _Cell) -> str:
    """Lines may end behind the dots of a name."""
    text = escape(cell.text)
    if "name" in head.kind:
        text = text.replace("_", "_<wbr>").replace(".", ".<wbr>")
    return f'<td class="{head.kind}" data-value="{escape(cell.value)}">{text}</td>'


def _sortable(value: float) -> str:
    """As JavaScript reads it; nothing for what is none."""
    return "" if math.isnan(value) else repr(float(value)).replace("inf", "Infinity")


def _explained() -> str:
    lines = "".join(f"<dt>{word}</dt><dd>{meaning}</dd>" for word, meaning in _EXPLAINED)
    return _section("How to read this page", "", lines, "dl")


def _section(title: str, about: str, content: str, kind: str) -> str:
    """Nothing without content. kind: "ul" or "dl", or classes of a <div>."""
    if not content:
        return ""
    said = f'<p class="about">{escape(about)}</p>' if about else ""
    inner = f"<{kind}>{content}</{kind}>" if kind in ("ul", "dl") else f'<div class="{kind}">{content}</div>'
    return f"<h2>{title}</h2>{said}{inner}"


def _span(checks: Sequence[TensorCheck]) -> list[float]:
    """Axes hold at least 10 dB, so that the scatter within a type looks as small as it is."""
    levels = [check.snr_db for check in checks if math.isfinite(check.snr_db)]
    return [min(levels), min(levels) + 10] if levels else []


def _has_errors(checks: Sequence[TensorCheck]) -> bool:
    return any(math.isfinite(check.snr_db) for check in checks)


def _worst(checks: Sequence[TensorCheck], ids: dict[str, str]) -> Mark:
    """Of tensors that share a cell, as experts do: off before any other, then the one of the lowest SNR."""
    worst = min(checks, key=lambda check: (check.state != "off", check.snr_db))
    mark = _mark(worst, ids)
    return mark if len(checks) == 1 else mark._replace(label=f"worst of {len(checks)}: {mark.label}")


def _mark(check: TensorCheck, ids: dict[str, str]) -> Mark:
    level = f"{check.snr_db:.1f} dB, RMSE {check.rmse:.3g}" if math.isfinite(check.snr_db) else snr(check)
    label = f"{check.name} ({check.type}): {check.reason or level}"
    return Mark(check.snr_db if math.isfinite(check.snr_db) else None, label, ids[check.name], check.state == "off")
