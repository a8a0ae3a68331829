"""Q4_0, Q4_1, Q5_0 and Q5_1 where columns have an importance, in plain NumPy. Knows nothing of the package.

Every step is one float32 operation and every sum adds its terms one by one, as in make_qx_quants and
quantize_row_*_impl of ggml-quants.c (llama.cpp b11434).
"""

from __future__ import annotations

import functools

import numpy as np

from tests.oracle.k_quants import affine_fit, nearest, total, weighted_tries

F32 = np.float32
Array = np.ndarray
TINY = F32(1e-15)


def row_weights(x: Array, importance: Array) -> Array:
    """(rows, columns) each -> (rows, columns): importance * sqrt(mean square of the row + x * x)."""
    return importance * np.sqrt(total(x * x)[:, None] / F32(x.shape[1]) + x * x)


def best_scale(x: Array, weight: Array, top: int) -> tuple[Array, Array]:
    """(blocks, elements) -> scales (blocks, 1), levels -top ... top - 1: the best of 19 tries."""
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    zero = np.abs(largest) < TINY
    scale = best = levels = np.zeros_like(x)
    for step in (0, *range(-9, 0), *range(1, 10)):
        inverse = -(F32(top) + F32(0.1) * F32(step)) / largest
        q = np.clip(nearest(inverse * x), -top, top - 1).astype(F32)
        sum_lx, sum_l2 = total(weight * x * q)[:, None], total(weight * q * q)[:, None]
        ratio = np.divide(sum_lx, sum_l2, out=np.zeros_like(sum_lx), where=sum_l2 != 0)
        better = step == 0 or (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        scale, best = np.where(better, ratio, scale), np.where(better, ratio * sum_lx, best)
        levels = np.where(better, q, levels)
    return np.where(zero, F32(0), scale)[:, :1], np.where(zero, F32(-top), levels)


def f16_bytes(x: Array) -> Array:
    """(blocks, 1) -> (blocks, 2) uint8; the NaN of x86."""
    half = np.where(np.isnan(x), -np.float32(np.nan), x).astype("<f2")
    return np.ascontiguousarray(half).view(np.uint8)


def packed_levels(levels: Array, top: int) -> list[Array]:
    """The fifth bits, if any, and the low four."""
    q = levels.astype(np.int64).astype(np.uint8)
    fifth = [np.packbits(q >> 4, axis=1, bitorder="little")] if top > 15 else []
    return [*fifth, q[:, :16] & 15 | (q[:, 16:] & 15) << 4]


def symmetric(x: Array, importance: Array, top: int) -> Array:
    weight = row_weights(x, importance)
    scale, levels = best_scale(x.reshape(-1, 32), weight.reshape(-1, 32), top)
    return np.hstack([f16_bytes(scale), *packed_levels(levels + F32(top), 2 * top - 1)])


def affine(x: Array, importance: Array, top: int, guarded: bool = True) -> Array:
    weight = row_weights(x, importance)
    tries = weighted_tries(top, guarded)
    scale, minimum, levels = affine_fit(x.reshape(-1, 32), weight.reshape(-1, 32), tries)
    return np.hstack([f16_bytes(scale[:, None]), f16_bytes(-minimum[:, None]), *packed_levels(levels, top)])


# name -> (rows, columns) float32, the importance of each -> (blocks, bytes) uint8
ENCODERS = {
    "q5_1": functools.partial(affine, top=31),
    "q5_0": functools.partial(symmetric, top=16),
    "q4_1": functools.partial(affine, top=15),
    "q4_0": functools.partial(symmetric, top=8),
}
