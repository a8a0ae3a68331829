"""A verification as text and JSON. Computes nothing that the result does not hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fastconv.cli.report import json_text, size_text, table

if TYPE_CHECKING:
    from fastconv.verification.findings import TensorCheck, Verification

COLUMNS = ("tensor", "type", "RMSE", "max error", "SNR dB", "cosine", "dW", "bytes", "verdict")


def as_text(result: Verification, *, quiet: bool = False) -> str:
    lines: list[str] = []
    shown = result.off if quiet else result.tensors
    if shown:
        lines += table([COLUMNS, *(row(check) for check in shown)], right={2, 3, 4, 5, 6, 7})
    lines += [f"{result.path}: {finding}" for finding in result.findings]
    lines += [f"{result.path}: tensor {check.name}: {check.reason}" for check in result.off]
    if not quiet:
        lines += [f"note: {note}" for note in result.notes]
        lines.append(closing_line(result))
    return "\n".join(lines)


def closing_line(result: Verification) -> str:
    parts = [f"{result.n_tensors} tensors"]
    if result.source is not None:
        counts = {
            state: sum(t.state == state for t in result.tensors) for state in ("exact", "close", "off", "unchecked")
        }
        parts.append(", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none compared")
    if result.checksum is not None:
        parts.append(f"SHA-256 {result.checksum}")
    if result.findings:
        parts.append(f"{len(result.findings)} broken rules")
    read = "source" if result.source is not None else "tensors"
    rate = f"{size_text(result.bytes_read)} of {read} in {result.seconds:.2f} s"
    return f"{result.path}: {'fine' if result.is_fine else 'NOT fine'}: {'; '.join(parts)}; {rate}"


def row(check: TensorCheck) -> tuple[str, ...]:
    """The cells of COLUMNS."""
    same = f"{check.blocks - check.differing}/{check.blocks}" if check.blocks else ""
    return (
        check.name,
        check.type,
        number(check.rmse),
        number(check.max_error),
        "exact" if check.snr_db == math.inf else "" if math.isnan(check.snr_db) else f"{check.snr_db:.1f}",
        "" if math.isnan(check.cosine) else f"{check.cosine:.6f}",
        "" if check.delta_share is None else f"{check.delta_share:.2f}",
        same,
        check.state,
    )


def number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


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
