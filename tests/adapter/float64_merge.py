"""What a MergedTensor means, in float64 NumPy: reads the files itself and shares nothing with the engine."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from fastconv.adapter.delta import LoraDelta, MergedTensor
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import FileStorage

_DTYPES = {
    "f64": np.dtype("<f8"),
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}


def matrix(tensor: LazyTensor) -> np.ndarray:
    """(n_rows, n_cols), float64."""
    n_stored = max(piece.row + piece.n_rows for piece in tensor.pieces)
    stored = np.full((n_stored, tensor.n_cols), np.nan)
    for piece in tensor.pieces:
        dtype = _DTYPES[piece.type]
        storage = piece.storage
        raw = np.fromfile(storage.path, np.uint8) if isinstance(storage, FileStorage) else storage.array.view(np.uint8)
        rows = np.arange(piece.n_rows)[:, None] * piece.row_stride
        cols = np.arange(piece.n_cols)[None, :] * piece.col_stride
        first = piece.offset + (rows + cols) * dtype.itemsize
        data = raw.reshape(-1)[first[..., None] + np.arange(dtype.itemsize)]
        values = np.ascontiguousarray(data).view(dtype)[..., 0].astype(np.float64)
        stored[piece.row : piece.row + piece.n_rows, piece.col : piece.col + piece.n_cols] = values
    result = stored if tensor.rows is None else stored[tensor.rows]
    assert result.shape == (tensor.n_rows, tensor.n_cols)
    return result


def merged(tensor: MergedTensor) -> np.ndarray:
    """In the base tensor's shape, float64."""
    base = weight = matrix(tensor.base)
    for delta in tensor.deltas:
        weight = _applied(weight, base, delta)
    return weight.reshape(tensor.base.shape)


def _applied(weight: np.ndarray, base: np.ndarray, delta: LoraDelta) -> np.ndarray:
    assert delta.scale == np.float32(delta.scale)
    update = delta.scale * (matrix(delta.b) @ matrix(delta.a))
    assert update.shape == weight.shape
    weight = weight + update
    if delta.magnitude is not None:
        weight = weight * (matrix(delta.magnitude) / np.linalg.norm(base + update, axis=1, keepdims=True))
    return weight
