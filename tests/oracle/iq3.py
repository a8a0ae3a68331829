"""IQ3_XXS and IQ3_S in plain NumPy, one float32 operation a step; the grids are those of the gguf package.

Source: quantize_row_iq3_xxs_impl, quantize_row_iq3_s_impl, iq3xs_init_impl and iq3_find_best_neighbour of ggml-quants.c
(llama.cpp b11434). Knows nothing of the package. Where ggml aborts, so may this.
"""

from __future__ import annotations

import functools

import numpy as np

F32 = np.float32
Array = np.ndarray

TABLE = {"iq3_xxs": "IQ3_XXS", "iq3_s": "IQ3_S"}
DISTANCES = {"iq3_xxs": 2, "iq3_s": 3}  # how many of the least distances count as near
STEPS = {"iq3_xxs": 15, "iq3_s": 9}
FACTORS = {"iq3_xxs": F32(1.0125), "iq3_s": F32(1.033)}


@functools.cache
def grid(type: str) -> Array:
    """(points, 4): levels 0 ... 7."""
    import gguf

    table = getattr(gguf.quants, TABLE[type])
    table.init_grid()
    return np.searchsorted(np.unique(table.grid), table.grid.reshape(-1, 4))


@functools.cache
def near(type: str) -> Array:
    """(4096, longest list): indices of the points to choose from for each code, -1 behind the last."""
    points = grid(type)
    codes = np.arange(4096)[:, None] >> 3 * np.arange(4) & 7
    distances = ((codes[:, None] - points) ** 2).sum(axis=2)
    lists = []
    for row in distances:
        limit = 0 if row.min() == 0 else np.unique(row)[: DISTANCES[type]].max()
        order = np.lexsort((np.arange(len(row)), row))
        lists.append(order[row[order] <= limit])
    longest = max(map(len, lists))
    return np.stack([np.pad(found, (0, longest - len(found)), constant_values=-1) for found in lists])


def running_sum(terms: Array) -> Array:
    """Over the last axis, one by one: the order of a sum decides its last bits."""
    total = np.zeros(terms.shape[:-1], F32)
    for i in range(terms.shape[-1]):
        total = total + terms[..., i]
    return total


def nearest_int(x: Array) -> Array:
    """The low bits of a sum, whatever its size."""
    return ((x + F32(12582912)).view(np.int32) & 0x7FFFFF) - 0x400000


def choose(type: str, x: Array, root: Array, inverse: Array, scale: Array) -> tuple[Array, Array]:
    """(blocks, 32) each, (blocks,) each -> levels (blocks, 32), whether the nearest are on the grid (blocks, 8)."""
    levels = np.clip(nearest_int(F32(0.5) * (inverse[:, None] * x - F32(1))), 0, 7).reshape(-1, 8, 4)
    lists = near(type)[(levels << 3 * np.arange(4)).sum(axis=2)]
    q = (2 * grid(type)[lists] + 1).astype(F32)
    off = scale[:, None, None, None] * q - x.reshape(-1, 8, 1, 4)
    cost = running_sum(root.reshape(-1, 8, 1, 4) * off * off)
    best = np.where(lists < 0, np.inf, cost).argmin(axis=2)
    chosen = np.take_along_axis(lists, best[:, :, None], axis=2)[:, :, 0]
    return grid(type)[chosen].reshape(-1, 32), lists[:, :, 1] < 0


def sums(x: Array, weight: Array, levels: Array) -> tuple[Array, Array]:
    q = (2 * levels + 1).astype(F32)
    return running_sum(weight * x * q), running_sum(weight * q * q)


def search(type: str, x: Array, weight: Array) -> tuple[Array, Array]:
    """x, weight (blocks, 32) -> scales (blocks,), levels (blocks, 32)."""
    root, most = np.sqrt(weight), x.max(axis=1)
    keeps = type == "iq3_xxs"
    scale, best = most / F32(15), np.zeros(len(x), F32)
    levels, on_grid = np.zeros(x.shape, np.int64), np.full((len(x), 8), keeps)
    for step in range(-STEPS[type], STEPS[type] + 1):
        inverse = (F32(15) + F32(step) * F32(0.2)) / most
        tried, tried_on_grid = choose(type, x, root, inverse, F32(1) / inverse)
        sum_qx, sum_q2 = sums(x, weight, tried)
        better = (sum_q2 > 0) & (sum_qx * sum_qx > best * sum_q2)
        scale = np.where(better, sum_qx / sum_q2, scale)
        best = np.where(better, scale * sum_qx, best)
        levels = np.where(better[:, None], tried, levels)
        on_grid = np.where(better[:, None], tried_on_grid, on_grid)
    again = ~on_grid.all(axis=1) & (scale > 0)
    anew, _ = choose(type, x, root, F32(1) / scale, scale)
    keep = np.repeat(on_grid & keeps, 4, axis=1) | ~again[:, None]
    levels = np.where(keep, levels, anew)
    sum_qx, sum_q2 = sums(x, weight, levels)
    return np.where(again & (sum_q2 > 0), sum_qx / sum_q2, scale), levels


def quantize_scales(type: str, scales: Array) -> tuple[Array, Array]:
    """(super-blocks, 8) -> float16 bytes, (super-blocks, 8) of 0 ... 15."""
    d = scales.max(axis=1, keepdims=True) / F32(31)
    stored = np.clip(nearest_int(F32(0.5) * (F32(1) / d * scales - F32(1))), 0, 15)
    return (d * FACTORS[type]).astype("<f2").view(np.uint8), stored


def weights(x: Array, importance: Array | None) -> Array:
    """(super-blocks, 256) alike."""
    if importance is None:
        return x * x
    sigma2 = F32(2) * running_sum(x * x) / F32(256)
    return importance * np.sqrt(sigma2[:, None] + x * x)


def indices(type: str, levels: Array) -> Array:
    """(..., 32) -> (..., 8)."""
    known = np.full(4096, -1)
    known[(grid(type) << 3 * np.arange(4)).sum(axis=1)] = np.arange(len(grid(type)))
    return known[(levels.reshape(*levels.shape[:-1], 8, 4) << 3 * np.arange(4)).sum(axis=-1)]


def packed(bits: Array) -> Array:
    return np.packbits(bits.astype(np.uint8), axis=-1, bitorder="little")


def iq3_xxs(x: Array, importance: Array | None = None) -> Array:
    """(super-blocks, 256) -> (super-blocks, 98)."""
    weight = weights(x, importance).reshape(-1, 8)
    eights = x.reshape(-1, 8)
    negative = eights < 0
    odd = negative.sum(axis=1) % 2 == 1
    least = (weight * eights * eights).argmin(axis=1)
    turned = odd[:, None] & (np.arange(8) == least[:, None])
    magnitudes = np.where(turned, -np.abs(eights), np.abs(eights)).reshape(-1, 32)
    signs = packed((negative ^ turned)[:, :7]).reshape(-1, 4).astype(np.uint32)
    scales, levels = search("iq3_xxs", magnitudes, weight.reshape(-1, 32))
    zero = magnitudes.max(axis=1) < F32(1e-8)
    points = np.where(zero[:, None], 0, indices("iq3_xxs", levels)).reshape(-1, 64).astype(np.uint8)
    scales = np.where(zero, F32(0), scales).reshape(-1, 8)
    d, stored = quantize_scales("iq3_xxs", scales)
    signs = np.where(zero[:, None], 0, signs) << np.array([0, 7, 14, 21], np.uint32)
    words = signs.sum(axis=1, dtype=np.uint32).reshape(-1, 8) | stored.astype(np.uint32) << np.uint32(28)
    out = np.hstack([d, points, words.astype("<u4").view(np.uint8)])
    out[scales.max(axis=1) == 0] = 0
    return out


def iq3_s(x: Array, importance: Array | None = None) -> Array:
    """(super-blocks, 256) -> (super-blocks, 110)."""
    blocks = x.reshape(-1, 32)
    magnitudes = np.abs(blocks)
    scales, levels = search("iq3_s", magnitudes, weights(x, importance).reshape(-1, 32))
    zero = (magnitudes.max(axis=1) == 0).reshape(-1, 8)
    scales = np.where(zero, F32(0), scales.reshape(-1, 8))
    d, stored = quantize_scales("iq3_s", scales)
    points = indices("iq3_s", levels).reshape(-1, 8, 8)
    signs = packed(blocks < 0).reshape(-1, 8, 4)
    # ggml writes no points and signs for a block of zeros, and those of later blocks move up.
    order = np.argsort(zero, axis=1, kind="stable")
    low = np.where(zero[:, :, None], 0, points & 255)[np.arange(len(x))[:, None], order]
    moved = np.where(zero[:, :, None], 0, signs)[np.arange(len(x))[:, None], order]
    high = packed(np.where(zero[:, :, None], 0, points >> 8)).reshape(-1, 8)
    pairs = (stored[:, 0::2] | stored[:, 1::2] << 4).astype(np.uint8)
    nothing = scales.max(axis=1) == 0
    pairs[nothing] = 0
    d[nothing] = 0
    return np.hstack([d, low.reshape(-1, 64).astype(np.uint8), high, moved.reshape(-1, 32).astype(np.uint8), pairs])
