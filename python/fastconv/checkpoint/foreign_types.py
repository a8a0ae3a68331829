"""Sizes of everything a checkpoint may hold, of what fastconv does not convert too, so that all bytes can be checked.

A reader keeps a tensor of a foreign type under its name; the stage that needs its values refuses it. Nothing here
decodes. What fastconv converts stands in the type table alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastconv.errors import CheckpointError
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
_GGML_NAMES = {info.ggml_type: info.name for info in TYPES.values() if info.ggml_type >= 0}


def ggml_type_name(ggml_type: int) -> str:
    """The name of a type id of today's ggml; `ggml_type_N` where the id is unknown."""
    name = _GGML_NAMES.get(ggml_type)
    if name is None:
        from gguf.constants import GGMLQuantizationType

        try:
            name = GGMLQuantizationType(ggml_type).name.lower()
        except ValueError:
            name = f"ggml_type_{ggml_type}"
    return name


def block_of(type_name: str) -> tuple[int, int] | None:
    """Elements and bytes of the type's block, None where the type is unknown or no whole bytes."""
    info = TYPES.get(type_name)
    if info is not None:
        return info.block_size, info.block_bytes
    if type_name in ELEMENT_BITS:
        bits = ELEMENT_BITS[type_name]
        return None if bits % 8 else (1, bits // 8)
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    ggml_type = GGMLQuantizationType.__members__.get(type_name.upper())
    return None if ggml_type is None else GGML_QUANT_SIZES.get(ggml_type)


def stored_bytes(type_name: str, n_elements: int) -> int | None:
    """Bytes of whole blocks that hold n elements, None where the type's size is unknown."""
    if type_name in ELEMENT_BITS:
        return (n_elements * ELEMENT_BITS[type_name] + 7) // 8
    block = block_of(type_name)
    return None if block is None else -(-n_elements // block[0]) * block[1]


def checked_bytes(shape: Sequence[int], type_name: str, block: tuple[int, int], *, file: str, tensor: str) -> int:
    """Bytes of a tensor. block: of its type. Raises CheckpointError where its rows do not divide into blocks."""
    n_cols = shape[-1] if shape else 1
    if n_cols % block[0]:
        raise CheckpointError(
            f"rows do not divide into {type_name} blocks",
            file=file,
            tensor=tensor,
            found=f"{n_cols} columns",
            expected=f"a multiple of {block[0]}",
        )
    return math.prod(shape) // block[0] * block[1]
