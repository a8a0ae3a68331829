"""The element and block types by name: the native type table, nothing more."""

from __future__ import annotations

from fastconv import _native
from fastconv.errors import UsageError

TYPES: dict[str, _native.TypeInfo] = {info.name: info for info in _native.types()}


def row_bytes(type_name: str, n: int) -> int:
    """Bytes of a row of n elements. Raises UsageError if n is not a multiple of the type's block."""
    info = TYPES[type_name]
    if n % info.block_size:
        raise UsageError(f"a row of {n} elements does not divide into {type_name} blocks of {info.block_size}")
    return n // info.block_size * info.block_bytes
