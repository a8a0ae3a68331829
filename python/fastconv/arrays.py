"""quantize() and dequantize() for arrays in memory: NumPy arrays and torch tensors of f32, f16 and bf16."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from fastconv import _native
from fastconv.errors import NonFiniteError, UsageError
from fastconv.request import MOST_THREADS
from fastconv.types import TYPES

if TYPE_CHECKING:
    import torch

_ENCODABLE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_SLICE_BYTES = 64 << 20


def quantize(
    array: np.ndarray | torch.Tensor,
    type: str,
    *,
    importance: np.ndarray | torch.Tensor | None = None,
    threads: int | None = None,
    nonfinite: str = "error",
) -> Any:
    """Quantize along the last dimension, with the bytes that ggml's reference writes.

    array: f32, f16 or bf16 (ml_dtypes.bfloat16 or torch.bfloat16) of shape (..., n), n a multiple of the type's block.
    type: a block or float type such as "q4_0". importance: how much each column matters, f32 (n,), or (..., n) with all
    dimensions but the rows' for a row per matrix, finite and none negative; as of an importance matrix, sums over
    counts. threads: None: all CPUs. Returns uint8 (..., bytes of a row), a torch
    tensor if one was given. Raises UsageError for a type, dtype or shape that cannot be, NonFiniteError for values
    that are NaN, infinite or beyond the type unless nonfinite is "keep".
    """
    info = _encodable(type)
    values, dtype, as_torch = _bits(array)
    if dtype not in _ENCODABLE:
        raise UsageError("arrays of this dtype cannot be quantized", found=dtype, expected="f32, f16 or bf16")
    type_in = _ENCODABLE[dtype]
    if values.ndim == 0 or values.shape[-1] % info.block_size:
        raise UsageError(
            f"the last dimension does not divide into {info.name} blocks",
            found=values.shape[-1] if values.ndim else "a scalar",
            expected=f"a multiple of {info.block_size}",
        )
    if nonfinite not in ("error", "keep"):
        raise UsageError("unknown nonfinite", found=nonfinite, expected="error or keep")
    n_cols = values.shape[-1]
    row_bytes = n_cols // info.block_size * info.block_bytes
    result = np.empty((*values.shape[:-1], row_bytes), dtype=np.uint8)
    matrix = values.reshape(-1, n_cols) if values.size else values.reshape(0, n_cols)
    out = result.reshape(-1, row_bytes) if result.size else result.reshape(0, row_bytes)
    weights = _importance(importance, values.shape, info)
    rows_per_weights = max(1, len(matrix) // len(weights))
    step = max(1, _SLICE_BYTES // max(1, n_cols * 4))
    n_threads = _threads(threads)
    for first in range(0, len(matrix), rows_per_weights):
        for start in range(first, first + rows_per_weights, step):
            stop = min(start + step, first + rows_per_weights)
            rows = _as_float32(matrix[start:stop], type_in, n_threads)
            if nonfinite == "error":
                _check_finite(rows, info, start)
            weight = weights[start // rows_per_weights]
            out[start:stop] = _native.quantize(rows, info.name, n_threads, importance=weight)
    return _like(result, as_torch)


def dequantize(blocks: np.ndarray | torch.Tensor, type: str, *, threads: int | None = None) -> Any:
    """Decode rows of blocks to float32, exactly.

    blocks: uint8 (..., bytes of a row). Returns float32 (..., n), a torch tensor if one was given. Raises UsageError
    for an unknown type or a last dimension that is not whole blocks.
    """
    info = TYPES.get(str(type).lower())
    if info is None or not info.decodes:
        raise UsageError("unknown type", found=str(type), expected=", ".join(n for n, t in TYPES.items() if t.decodes))
    data, dtype, as_torch = _bits(blocks)
    if dtype != "uint8" or data.ndim == 0 or data.shape[-1] % info.block_bytes:
        raise UsageError(
            f"blocks of {info.name} must be uint8 with whole blocks in a row",
            found=f"{dtype} of shape {data.shape}",
            expected=f"a last dimension that is a multiple of {info.block_bytes}",
        )
    n_cols = data.shape[-1] // info.block_bytes * info.block_size
    matrix = np.ascontiguousarray(data).reshape(int(np.prod(data.shape[:-1])), data.shape[-1])
    values = _native.dequantize(matrix, info.name, _threads(threads))
    return _like(values.reshape((*data.shape[:-1], n_cols)), as_torch)


def _encodable(type_name: str) -> _native.TypeInfo:
    info = TYPES.get(str(type_name).lower())
    if info is None or not info.encodes:
        raise UsageError(
            "unknown type", found=str(type_name), expected=", ".join(n for n, t in TYPES.items() if t.encodes)
        )
    return info


def _importance(
    importance: np.ndarray | torch.Tensor | None, shape: tuple[int, ...], info: _native.TypeInfo
) -> Sequence[np.ndarray | None]:
    """A row of weights per matrix, or one for all."""
    if importance is None:
        if info.needs_importance:
            raise UsageError(f"{info.name} cannot be quantized without the importance of its columns")
        return [None]
    values, dtype, _ = _bits(importance)
    fitting = dict.fromkeys(((shape[-1],), (*shape[:-2], shape[-1])))  # one for a matrix
    if dtype != "float32" or values.shape not in fitting:
        raise UsageError(
            "the importance does not fit the array",
            found=f"{dtype} of shape {values.shape}",
            expected=f"float32 of shape {' or '.join(map(str, fitting))}",
        )
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise UsageError("the importance holds a value that is not finite or negative")
    n_matrices = values.size // shape[-1] if values.size else 0
    return [*np.ascontiguousarray(values).reshape(n_matrices, shape[-1])] or [np.zeros(shape[-1], np.float32)]


def _is_torch(array: object) -> TypeGuard[torch.Tensor]:
    module = sys.modules.get("torch")
    return module is not None and isinstance(array, module.Tensor)


def _bits(array: Any) -> tuple[np.ndarray, str, bool]:
    """The array as NumPy sees its bits, the name of its dtype, and whether it came from torch."""
    if _is_torch(array):
        import torch

        tensor = array.detach()
        if tensor.device.type != "cpu":
            raise UsageError("the tensor is not in main memory", found=tensor.device, fix="call .cpu() first")
        if tensor.is_nested:
            raise UsageError("the tensor is nested: its rows differ in length", fix="quantize its parts one by one")
        if "torch.masked" in sys.modules and isinstance(tensor, torch.masked.MaskedTensor):
            raise UsageError("the tensor is masked: blocks cannot say so", fix="call .to_tensor(value) first")
        if tensor.layout != torch.strided:
            raise UsageError("the tensor is sparse", found=tensor.layout, fix="call .to_dense() first")
        # NumPy has no bfloat16 and none of the eight-bit floats.
        same_size = {1: torch.uint8, 2: torch.int16}.get(tensor.element_size())
        bits = tensor.resolve_conj().resolve_neg().contiguous()
        values = (bits if same_size is None else bits.view(same_size)).numpy()
        return values, str(tensor.dtype).removeprefix("torch."), True
    masked = sys.modules.get("numpy.ma")
    if masked is not None and masked.is_masked(array):
        found = f"{np.count_nonzero(masked.getmaskarray(array))} masked elements"
        raise UsageError("the array is masked: blocks cannot say so", found=found, fix="call .filled(value) first")
    values = np.asarray(array)
    name = values.dtype.name if values.dtype.isnative else str(values.dtype)
    return (np.ascontiguousarray(values).view(np.uint16) if name == "bfloat16" else values), name, False


def _as_float32(rows: np.ndarray, type_name: str, threads: int) -> np.ndarray:
    rows = np.ascontiguousarray(rows)
    if type_name == "f32":
        return rows
    return _native.dequantize(rows.view(np.uint8).reshape(len(rows), -1), type_name, threads)


def _check_finite(rows: np.ndarray, info: _native.TypeInfo, first_row: int) -> None:
    bad = ~(np.abs(rows) <= np.float32(info.max_abs))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise NonFiniteError(
            f"a value does not fit {info.name}",
            found=f"{rows[row, column]} in row {first_row + row}, column {column}",
            fix='nonfinite="keep" writes it all the same',
        )


def _threads(threads: int | None) -> int:
    if threads is None:
        from fastconv.engine import default_threads

        return default_threads()
    if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise UsageError("threads is out of range", found=repr(threads), expected=f"1 to {MOST_THREADS}")
    return threads


def _like(result: np.ndarray, as_torch: bool) -> Any:
    if not as_torch:
        return result
    import torch

    return torch.from_numpy(result)
