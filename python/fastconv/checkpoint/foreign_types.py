"""Sizes of the element types that checkpoints may hold, those that fastconv does not convert included.

A reader keeps such a tensor under its name; the stage that needs its values refuses it. Nothing here decodes.
"""

from __future__ import annotations

from fastconv.types import TYPES

# Bits of one element. Source: safetensors 0.6, enum Dtype; c128 is torch's alone.
_FOREIGN_BITS = {
    "u16": 16,
    "u32": 32,
    "u64": 64,
    "c64": 64,
    "c128": 128,
    "f8_e4m3fnuz": 8,
    "f8_e5m2fnuz": 8,
    "f8_e8m0": 8,
    "f6_e2m3": 6,
    "f6_e3m2": 6,
    "f4": 4,
}

ELEMENT_BITS: dict[str, int] = {
    **{info.name: 8 * info.block_bytes for info in TYPES.values() if info.block_size == 1},
    **_FOREIGN_BITS,
}
