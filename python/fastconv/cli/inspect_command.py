"""`fastconv inspect`: what a checkpoint, an adapter, a GGUF or a GGJT file holds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastconv.cli.streams import say
from fastconv.errors import shortened

if TYPE_CHECKING:
    from fastconv.inspection import Inspection

_LONGEST_VALUE = 100


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser = commands.add_parser(
        "inspect",
        help="show what a checkpoint, an adapter, a GGUF or a GGJT file holds",
        description="Show format, architecture, hyperparameters, vocabulary and tensors. Reads headers only.",
    )
    parser.add_argument("path", metavar="PATH", help="folder or file")
    parser.add_argument("--json", action="store_true", help="print JSON, long arrays included")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed `inspect` command line. Returns the exit code."""
    from fastconv.inspection import inspect

    inspection = inspect(arguments.path)
    say(as_json(inspection) if arguments.json else as_text(inspection))
    return 0


def as_json(inspection: Inspection) -> str:
    from fastconv.cli.report import json_text

    return json_text(
        {
            "path": inspection.path,
            "kind": inspection.kind,
            "format": inspection.format,
            "architecture": inspection.architecture,
            "hyperparameters": inspection.hyperparameters,
            "vocabulary": inspection.vocabulary,
            "metadata": inspection.metadata,
            "tensors": [
                {
                    "name": tensor.name,
                    "type": tensor.type,
                    "shape": tensor.shape,
                    "bytes": tensor.size,
                    "offset": tensor.offset,
                    "file": tensor.file,
                }
                for tensor in inspection.tensors
            ],
            "notes": inspection.notes,
        },
        plain,
    )


def as_text(inspection: Inspection) -> str:
    from fastconv.cli.report import size_text, table, text_of

    lines = [f"{inspection.path}: {inspection.kind}, {inspection.format}, {inspection.architecture or 'unknown model'}"]
    for title, values in (
        ("hyperparameters", inspection.hyperparameters),
        ("vocabulary", inspection.vocabulary),
        ("metadata", inspection.metadata),
    ):
        if values:
            lines.append(f"{title}:")
            lines += [f"  {_cut(key)} = {_short(value)}" for key, value in values.items()]
    rows = [("tensor", "type", "shape", "bytes", "offset")]
    for tensor in inspection.tensors:
        shape = " x ".join(map(str, tensor.shape)) or "scalar"
        rows.append((tensor.name, tensor.type, shape, str(tensor.size), str(tensor.offset)))
    lines += table(rows, right={3, 4})
    total = sum(tensor.size for tensor in inspection.tensors)
    lines.append(f"{len(inspection.tensors)} tensors, {size_text(total)}")
    lines += [f"note: {note}" for note in inspection.notes]
    return text_of(lines)


def _short(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) > 8:
        return f"[{len(value)} values]"
    return _cut(repr(value[:_LONGEST_VALUE]) if isinstance(value, str | bytes) else str(value))


def _cut(text: str) -> str:
    return shortened(text, _LONGEST_VALUE)


def plain(value: object) -> object:
    """JSON for what json does not know: bytes (tokens need not be UTF-8), NumPy values, small records."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__slots__"):
        return {name: getattr(value, name) for name in value.__slots__}
    return str(value)
