"""Which element type a tensor is written in, and the bytes of its data, where a file holds plain arrays.

Shared by the files that transformers and LitGPT read. Knows sizes and types, no names of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from fastconv.adapter.delta import MergedTensor
from fastconv.checkpoint.foreign_types import ELEMENT_BITS
from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import PlanError
from fastconv.layout.laid_out import CopiedBytes
from fastconv.plan.file_types import FileType
from fastconv.record import record
from fastconv.types import TYPES

# What --outtype auto makes of types that no array has (blocks) or that fastconv does not encode (f64, f8) once their
# values change.
_DECODED_BLOCKS = "f16"
_UNENCODED = "f32"


@record
class ArrayEntry:
    """A tensor of the file. canonical: its key among the tensors to convert. is_copied: its bytes stay as they are."""

    name: str
    canonical: str
    shape: tuple[int, ...]
    type: str
    size: int
    merged: MergedTensor
    is_copied: bool

    def copied_to(self, offset: int) -> CopiedBytes:
        piece = self.merged.base.pieces[0]
        assert isinstance(piece.storage, FileStorage)
        return CopiedBytes(offset, piece.storage, piece.offset, self.size)


def array_entries(
    names: Iterable[tuple[str, str]], tensors: Mapping[str, MergedTensor], file_type: FileType
) -> list[ArrayEntry]:
    """(name in the file, key in tensors) -> entries. Raises PlanError for what can be neither read nor copied."""
    return [_entry(name, canonical, tensors[canonical], file_type) for name, canonical in names]


def _entry(name: str, canonical: str, merged: MergedTensor, file_type: FileType) -> ArrayEntry:
    base = merged.base
    chosen = _element_type(base.dtype, file_type, is_changed=bool(merged.deltas))
    is_copied = TYPES.get(chosen) is None or TYPES[chosen].max_abs == 0
    if is_copied and not _can_be_copied(merged):
        raise PlanError("has a type that can only be copied as it is stored", tensor=name, found=base.dtype)
    size = math.prod(base.shape) * ELEMENT_BITS[chosen] // 8
    return ArrayEntry(name, canonical, base.shape, chosen, size, merged, is_copied)


def _element_type(stored: str, file_type: FileType, *, is_changed: bool) -> str:
    info = TYPES.get(stored)
    if info is None or not info.decodes:  # integers, flags
        return stored
    if not file_type.keeps:
        return file_type.type
    if info.block_size > 1:
        return _DECODED_BLOCKS
    return _UNENCODED if info.max_abs == 0 and is_changed else stored


def _can_be_copied(merged: MergedTensor) -> bool:
    tensor = merged.base
    in_file = tensor.is_packed and isinstance(tensor.pieces[0].storage, FileStorage)
    return in_file and not merged.deltas and tensor.dtype in ELEMENT_BITS
