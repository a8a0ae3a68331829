"""IQ4_NL and IQ4_XS in plain NumPy, one float32 operation a step: the best of sixteen scales by weighted least squares.

Source: quantize_row_iq4_nl_impl and best_index_int8 of ggml-quants.c (llama.cpp b11434). Knows nothing of the package.
"""

from __future__ import annotations

import numpy as np

F32 = np.float32
Array = np.ndarray

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def nearest_level(x: Array) -> Array:
    """ggml's binary search, step by step; 15 for NaN."""
    low, high = np.zeros(x.shape, np.int64), np.full(x.shape, 15)
    while (high - low > 1).any():
        middle = (low + high) // 2
        below = x < VALUES[middle]
        apart = high - low > 1
        high = np.where(apart & below, middle, high)
        low = np.where(apart & ~below, middle, low)
    level = np.where(x - VALUES[low] < VALUES[high] - x, low, high)
    return np.where(x <= VALUES[0], 0, np.where(x >= VALUES[-1], 15, level))


def ratio(x: Array, y: Array, where: Array) -> Array:
    return np.divide(x, y, out=np.zeros_like(x), where=where)


def running_sum(terms: Array) -> Array:
    """Over the last axis, one by one: the order of a sum decides its last bits."""
    total = np.zeros(terms.shape[:-1], F32)
    for i in range(terms.shape[-1]):
        total = total + terms[..., i]
    return total


def sums(x: Array, weight: Array, inverse: Array) -> tuple[Array, Array]:
    q = VALUES[nearest_level(inverse[:, None] * x)]
    return running_sum(weight * q * x), running_sum(weight * q * q)


def best_scales(x: Array, weight: Array) -> Array:
    """(blocks, 32), (blocks, 32) -> (blocks,)."""
    magnitudes = np.abs(np.where(np.isnan(x), F32(0), x))
    amax = magnitudes.max(axis=1)
    largest = np.take_along_axis(x, magnitudes.argmax(axis=1)[:, None], axis=1)[:, 0]
    sum_qx, sum_q2 = sums(x, weight, F32(1) / (largest / F32(127)))
    scale = ratio(sum_qx, sum_q2, sum_q2 > 0)
    best = scale * sum_qx
    for step in range(-7, 8):
        sum_qx, sum_q2 = sums(x, weight, F32(step - 127) / largest)
        better = (sum_q2 > 0) & (sum_qx * sum_qx > best * sum_q2)
        new = ratio(sum_qx, sum_q2, better)
        scale = np.where(better, new, scale)
        best = np.where(better, new * sum_qx, best)
    return np.where(amax < F32(1e-15), F32(0), scale)


def weights(x: Array, importance: Array | None) -> Array:
    """(blocks, elements) alike; the mean of the squares is over a block."""
    if importance is None:
        return x * x
    sigma2 = running_sum(x * x) * F32(2 / x.shape[1])
    return importance * np.sqrt(sigma2[:, None] + x * x)


def f16(x: Array) -> Array:
    """A NaN keeps its sign alone."""
    quiet = np.copysign(F32(np.nan), x)
    return np.where(np.isnan(x), quiet, x).astype("<f2").view(np.uint8).reshape(len(x), -1)


def pack(levels: Array) -> Array:
    """(blocks, 32) -> (blocks, 16)."""
    return (levels[:, :16] | levels[:, 16:] << 4).astype(np.uint8)


def iq4_nl(x: Array, importance: Array | None = None) -> Array:
    """(blocks, 32) -> (blocks, 18)."""
    scales = best_scales(x, weights(x, importance))
    inverse = ratio(np.ones_like(scales), scales, scales != 0)
    # x86 makes every NaN negative; NumPy's may be of either sign.
    scales = np.where(np.isnan(scales), -np.abs(scales), scales)
    return np.hstack([f16(scales), pack(nearest_level(inverse[:, None] * x))])


def iq4_xs(x: Array, importance: Array | None = None) -> Array:
    """(super-blocks, 256) -> (super-blocks, 136)."""
    scales = best_scales(x.reshape(-1, 32), weights(x, importance).reshape(-1, 32)).reshape(-1, 8)
    known = np.where(np.isnan(scales), F32(0), scales)
    d = -np.take_along_axis(known, np.abs(known).argmax(axis=1)[:, None], axis=1) / F32(32)
    d = np.where(d == 0, F32(-0.0), d)
    relative = ratio(np.ones_like(d), d, d != 0) * scales
    # nearest_int makes -2^22 of infinity and 0 of NaN.
    sub = np.where(np.isinf(relative), -32, np.clip(np.where(np.isnan(relative), 0, np.rint(relative)), -32, 31))
    step = d * sub.astype(F32)
    inverse = ratio(np.ones_like(step), step, step != 0)
    levels = nearest_level(inverse[:, :, None] * x.reshape(-1, 8, 32)).reshape(-1, 32)
    stored = sub.astype(np.int64) + 32
    high = (stored >> 4 << 2 * np.arange(8)).sum(axis=1).astype("<u2").view(np.uint8).reshape(-1, 2)
    low = (stored[:, 0::2] & 15 | (stored[:, 1::2] & 15) << 4).astype(np.uint8)
    return np.hstack([f16(d), high, low, pack(levels).reshape(-1, 128)])


def unpack(qs: Array) -> Array:
    """(blocks, 16) -> the values (blocks, 32)."""
    return VALUES[np.hstack([qs & 15, qs >> 4])]


def decode_iq4_nl(block: Array) -> Array:
    """(blocks, 18) -> (blocks, 32)."""
    d = np.ascontiguousarray(block[:, :2]).view("<f2").astype(F32)
    return d * unpack(block[:, 2:])


def decode_iq4_xs(block: Array) -> Array:
    """(super-blocks, 136) -> (super-blocks, 256)."""
    d = np.ascontiguousarray(block[:, :2]).view("<f2").astype(F32)
    high = np.ascontiguousarray(block[:, 2:4]).view("<u2").astype(np.int64) >> 2 * np.arange(8) & 3
    low = np.stack([block[:, 4:8] & 15, block[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    scale = d * ((low | high << 4) - 32).astype(F32)
    return (scale.reshape(-1, 1) * unpack(block[:, 8:].reshape(-1, 16))).reshape(-1, 256)
