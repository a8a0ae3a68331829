"""Looks at the values of small tensors before the run, in pieces and no further than needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import FileStorage
from fastconv.types import TYPES

if TYPE_CHECKING:
    import numpy as np

_CHUNK_BYTES = 1 << 20


def is_zero(tensor: LazyTensor) -> bool:
    """Whether every element is zero; stops at the first chunk that holds another."""
    return all(tensor.is_zero(start, stop) for start, stop in _row_ranges(tensor))


def same_content(first: LazyTensor, second: LazyTensor) -> bool:
    """Whether two tensors have equal shapes and values; stops at the first chunk that differs."""
    if first.shape != second.shape:
        return False
    raw = first.dtype == second.dtype and _lies_in_a_file(first) and _lies_in_a_file(second)
    import numpy as np

    pairs = zip(_chunks(first, raw), _chunks(second, raw), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _lies_in_a_file(tensor: LazyTensor) -> bool:
    return tensor.is_packed and isinstance(tensor.pieces[0].storage, FileStorage)


def _chunks(tensor: LazyTensor, raw: bool) -> Iterator[np.ndarray]:
    """raw: the bytes as stored, of a packed tensor. Otherwise rows decoded to float32."""
    if raw:
        piece = tensor.pieces[0]
        assert isinstance(piece.storage, FileStorage)
        info = TYPES[tensor.dtype]
        import numpy as np

        n_bytes = tensor.n_elements // info.block_size * info.block_bytes
        for start in range(0, n_bytes, _CHUNK_BYTES):
            chunk = piece.storage.read(piece.offset + start, min(_CHUNK_BYTES, n_bytes - start))
            yield np.frombuffer(chunk, np.uint8)
    else:
        for start, stop in _row_ranges(tensor):
            yield tensor.numpy(start, stop)


def _row_ranges(tensor: LazyTensor) -> Iterator[tuple[int, int]]:
    n_rows = max(1, _CHUNK_BYTES // 4 // tensor.n_cols)
    return ((start, min(start + n_rows, tensor.n_rows)) for start in range(0, tensor.n_rows, n_rows))
