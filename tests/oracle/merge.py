"""The low-rank update and the reductions of the kernels in plain NumPy, in the order that the kernels promise."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def lora_add(rows: Array, b: Array, a: Array, scale: float) -> Array:
    """rows + scale * (b[:, 0] a[0] + b[:, 1] a[1] + ...), float32, each product and sum rounded."""
    total = b[:, :1] * a[:1]
    for r in range(1, a.shape[0]):
        total = total + b[:, r : r + 1] * a[r : r + 1]
    return rows + np.float32(scale) * total


def sum_of_squares(x: Array) -> float:
    """In float64: sixteen partial sums by index modulo 16, folded in halves."""
    partial = np.zeros(16)
    for start in range(0, x.size, 16):
        run = x.ravel()[start : start + 16].astype(np.float64)
        partial[: run.size] += run * run
    return _folded(partial)


def square_norm(x: Array) -> float:
    """In float64 over float32 sums of eight runs of sixteen; sum_of_squares where float32's range might not do."""
    runs = np.pad(x.ravel(), (0, -x.size % 16)).reshape(-1, 16)
    partial = np.zeros(16)
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, len(runs), 8):
            group = np.zeros(16, np.float32)
            for run in runs[start : start + 8]:
                group = group + run * run
            partial += group
    total = _folded(partial)
    return total if 2.0**-60 <= total <= 2.0**100 else sum_of_squares(x)


def _folded(partial: Array) -> float:
    while partial.size > 1:
        partial = partial[: partial.size // 2] + partial[partial.size // 2 :]
    return float(partial[0])
