"""Writes safetensors headers: names, types and places of arrays. docs/formats/safetensors.md has the bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from fastconv.checkpoint.foreign_types import ELEMENT_BITS
from fastconv.layout.laid_out import CopiedBytes, LaidOut, PlacedTensor
from fastconv.layout.weights_file import ArrayEntry

_ALIGNMENT = 8  # of the data section; source: safetensors, tensor.rs (N_LEN)


def safetensors_file(
    entries: Sequence[ArrayEntry], name: str = "", metadata: Mapping[str, str] | None = None
) -> LaidOut:
    """The file of these tensors, in the order of safetensors' own writer: wide types first, then by name.

    So every array is aligned to its elements, whatever order the tensors had before. metadata: for __metadata__.
    """
    # transformers refuses files without a format.
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    ordered = sorted(entries, key=lambda entry: (-ELEMENT_BITS[entry.type], entry.name))
    end = 0
    for entry in ordered:
        header[entry.name] = {
            "dtype": entry.type.upper(),
            "shape": list(entry.shape),
            "data_offsets": [end, end + entry.size],
        }
        end += entry.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    at = 8 + len(text)
    placed: list[PlacedTensor] = []
    copied: list[CopiedBytes] = []
    for entry in ordered:
        if entry.is_copied:
            copied.append(entry.copied_to(at))
        else:
            placed.append(PlacedTensor(entry.name, entry.canonical, entry.shape, entry.type, at, entry.size))
        at += entry.size
    chunk = len(text).to_bytes(8, "little") + text
    return LaidOut(((0, chunk),), tuple(placed), at, name=name, copied=tuple(copied))
