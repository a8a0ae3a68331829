"""A verification as text and JSON. Computes nothing that the result does not hold."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastconv.cli.report import json_text, size_text, table, text_of
from fastconv.errors import LONGEST_NAME, shortened

if TYPE_CHECKING:
    from fastconv.verification.findings import TensorCheck, Verification

COLUMNS = ("tensor", "type", "RMSE", "max error", "SNR dB", "cosine", "dW", "same blocks", "verdict")
# What a terminal that is too narrow does without, first what it misses least.
_SPARED = ("cosine", "max error", "same blocks", "RMSE", "dW")
_LEAST_NAME = 24
_NAMED = 12  # kinds of tensors that one line names
_LAYER = re.compile(r"(?<=\.)\d{1,3}(?=\.)")
_NUMBER = re.compile(r"\d[\d.e+-]*")


class Problem(NamedTuple):
    """What is wrong with one tensor or several. what: of the first, whose figures may differ from the others'."""

    what: str
    tensors: tuple[str, ...]
    has_figures: bool


def as_text(result: Verification, *, quiet: bool = False, width: int | None = None) -> str:
    """width: in characters, of the terminal; None: lines are as long as they need to be."""
    lines: list[str] = []
    shown = result.off if quiet else result.tensors
    if shown:
        rows = [COLUMNS, *(row(check) for check in shown)]
        lines += table(*_fitting(rows, width))
    lines += [f"{result.path}: {finding}" for finding in result.findings]
    lines += [f"{result.path}: {problem_line(problem)}" for problem in problems(result.off)]
    if not quiet:
        lines += [f"note: {note}" for note in result.notes]
        lines.append(f"{result.path}: {'fine' if result.is_fine else 'NOT fine'}: {closing_line(result)}")
    return text_of(lines)


def problems(off: Iterable[TensorCheck]) -> list[Problem]:
    """One for each kind of what is wrong: a forgotten adapter is one problem, not one for each tensor."""
    groups: dict[str, list[TensorCheck]] = defaultdict(list)
    for check in off:
        groups[_NUMBER.sub("0", check.reason)].append(check)
    return [
        Problem(checks[0].reason, tuple(check.name for check in checks), len({check.reason for check in checks}) > 1)
        for checks in groups.values()
    ]


def problem_line(problem: Problem) -> str:
    if len(problem.tensors) == 1:
        return f"tensor {shortened(problem.tensors[0], LONGEST_NAME)}: {problem.what}"
    first = " (figures of the first)" if problem.has_figures else ""
    names = [shortened(kind, LONGEST_NAME) for kind in kinds(problem.tensors)]
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return f"{len(problem.tensors)} tensors: {problem.what}{first}: {', '.join([*names[:_NAMED], *more])}"


def kinds(names: Sequence[str]) -> list[str]:
    """Names that differ in the number of their layer as one: blk.0-3,7.attn_q.weight."""
    layers: dict[str, list[int]] = defaultdict(list)
    for name in names:
        match = _LAYER.search(name)
        layers[f"{name[: match.start()]}\0{name[match.end() :]}" if match else name] += [int(match[0])] if match else []
    return [kind.replace("\0", _ranges(sorted(numbers)), 1) for kind, numbers in layers.items()]


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number <= runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{begin}" if begin == end else f"{begin}-{end}" for begin, end in runs)


def closing_line(result: Verification) -> str:
    """Counts, checksum and speed, without the file's name."""
    parts = [counted(result.n_tensors, "tensor")]
    if result.source is not None:
        parts.append(states(result) or "none compared")
    if result.checksum is not None:
        parts.append(f"SHA-256 {result.checksum}")
    if result.findings:
        parts.append(counted(len(result.findings), "broken rule"))
    read = "source" if result.source is not None else "tensors"
    rate = f"{size_text(result.bytes_read)} of {read} in {result.seconds:.2f} s"
    return f"{'; '.join(parts)}; {rate}"


def states(result: Verification) -> str:
    """How many tensors are exact, close, off and unchecked."""
    counts = {state: sum(t.state == state for t in result.tensors) for state in ("exact", "close", "off", "unchecked")}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def row(check: TensorCheck) -> tuple[str, ...]:
    """The cells of COLUMNS."""
    same = f"{check.blocks - check.differing}/{check.blocks}" if check.blocks else ""
    return (
        check.name,
        check.type,
        number(check.rmse),
        number(check.max_error),
        snr(check),
        "" if math.isnan(check.cosine) else f"{check.cosine:.6f}",
        share(check),
        same,
        check.state,
    )


def snr(check: TensorCheck) -> str:
    return "no error" if check.snr_db == math.inf else "" if math.isnan(check.snr_db) else f"{check.snr_db:.1f}"


def share(check: TensorCheck) -> str:
    """Of the adapters' change."""
    return "" if check.delta_share is None else f"{round(check.delta_share, 2) + 0.0:.2f}"  # no -0.00


def number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _fitting(rows: Sequence[Sequence[str]], width: int | None) -> tuple[list[list[str]], set[int]]:
    """The columns that hold something and have room, names cut where there is none still; which are numbers."""
    kept = [column for column in range(len(COLUMNS)) if any(cells[column] for cells in rows[1:])]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(COLUMNS))]
    least = widths[0]
    if width is not None:
        least = min(least, _LEAST_NAME)
        for name in _SPARED:
            column = COLUMNS.index(name)
            if least + sum(widths[i] + 2 for i in kept[1:]) > width and column in kept:
                kept.remove(column)
        least = max(least, width - sum(widths[i] + 2 for i in kept[1:]))
    shown = [[_cut(cells[0], least), *(cells[column] for column in kept[1:])] for cells in rows]
    return shown, {at for at, column in enumerate(kept) if COLUMNS[column] not in ("tensor", "type", "verdict")}


def _cut(name: str, width: int) -> str:
    """Without its middle, so that begin and end tell it from others."""
    head = (width - 3) // 2
    return name if len(name) <= width else f"{name[:head]}...{name[head + 3 - width :]}"


def as_json(result: Verification) -> str:
    return json_text(
        {
            "path": result.path,
            "format": result.format,
            "fine": result.is_fine,
            "source": result.source,
            "adapters": list(result.adapters),
            "checksum": result.checksum,
            "tensors": result.n_tensors,
            "findings": [
                {"what": f.what, "tensor": f.tensor, "found": f.found, "expected": f.expected} for f in result.findings
            ],
            "compared": [_check(check) for check in result.tensors],
            "notes": list(result.notes),
            "bytes_read": result.bytes_read,
            "seconds": round(result.seconds, 4),
        }
    )


def _check(check: TensorCheck) -> dict[str, Any]:
    return {
        "name": check.name,
        "type": check.type,
        "shape": list(check.shape),
        "state": check.state,
        "reason": check.reason,
        "rmse": check.rmse,
        "own_rmse": check.own_rmse,
        "max_error": check.max_error,
        "max_error_at": None if check.max_error_at is None else list(check.max_error_at),
        "snr_db": check.snr_db,
        "cosine": check.cosine,
        "blocks": check.blocks,
        "differing_blocks": check.differing,
        "delta_share": check.delta_share,
        "delta_ratio": check.delta_ratio,
    }
