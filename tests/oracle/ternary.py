"""TQ1_0 and TQ2_0 in plain NumPy: levels -1, 0, 1 times the largest magnitude. Knows nothing of the package.

Source: quantize_row_tq1_0_ref and quantize_row_tq2_0_ref in ggml-quants.c (llama.cpp b11434).
"""

from __future__ import annotations

import numpy as np

F32 = np.float32
Array = np.ndarray
POWERS = 3 ** np.arange(4, -1, -1)  # of the first to the fifth level of a byte


def scales_and_levels(x: Array) -> tuple[Array, Array]:
    """(blocks, 256) -> float16 scales as (blocks, 2) uint8, levels 0, 1, 2."""
    d = np.abs(x).max(axis=1, keepdims=True)
    scaled = x * np.divide(F32(1), d, out=np.zeros_like(d), where=d != 0)
    known = np.where(np.isfinite(scaled), scaled, F32(0))  # x86 makes 0 of what no integer can hold
    levels = np.copysign(np.floor(np.abs(known.astype(np.float64)) + 0.5), known).astype(np.int64) + 1
    return np.ascontiguousarray(d.astype("<f2")).view(np.uint8), levels


def in_base_3(levels: Array) -> Array:
    """(blocks, 5, bytes) -> (blocks, bytes): the number as a fraction of 243, in 256ths, rounded up."""
    number = (levels * POWERS[:, None]).sum(axis=1)
    return -(-256 * number // 243)


def tq1_0(x: Array) -> Array:
    d, q = scales_and_levels(x)
    last = np.pad(q[:, 240:].reshape(-1, 4, 4), ((0, 0), (0, 1), (0, 0)))
    parts = [q[:, :160].reshape(-1, 5, 32), q[:, 160:240].reshape(-1, 5, 16), last]
    return np.hstack([*(in_base_3(part).astype(np.uint8) for part in parts), d])


def tq2_0(x: Array) -> Array:
    d, q = scales_and_levels(x)
    packed = (q.reshape(-1, 2, 4, 32) << np.array([0, 2, 4, 6]).reshape(4, 1)).sum(axis=2)
    return np.hstack([packed.reshape(-1, 64).astype(np.uint8), d])


def digits(packed: Array, n_levels: int) -> Array:
    """(blocks, bytes) -> (blocks, n_levels * bytes) float32 -1, 0, 1, the first level of all bytes first.

    A level is the carry of 3 times the byte; the low byte holds the levels that follow."""
    levels = []
    rest = packed.astype(np.int64)
    for _ in range(n_levels):
        levels.append((rest * 3 >> 8) - 1)
        rest = rest * 3 & 255
    return np.hstack(levels).astype(F32)


def decode_tq1_0(block: Array) -> Array:
    d = np.ascontiguousarray(block[:, 52:]).view("<f2").astype(F32)
    return np.hstack([digits(block[:, :32], 5), digits(block[:, 32:48], 5), digits(block[:, 48:52], 4)]) * d


def decode_tq2_0(block: Array) -> Array:
    d = np.ascontiguousarray(block[:, 64:]).view("<f2").astype(F32)
    q = block[:, :64].reshape(-1, 2, 1, 32).astype(np.int64) >> np.array([0, 2, 4, 6]).reshape(4, 1) & 3
    return (q.reshape(-1, 256) - 1).astype(F32) * d
