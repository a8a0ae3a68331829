"""IQ1_S and IQ1_M in plain NumPy, one float32 operation a step: every split of the sorted elements into -1, 0 and 1.

Source: quantize_row_iq1_s_impl, quantize_row_iq1_m_impl and iq1_find_best_neighbour2 of ggml-quants.c (llama.cpp
b11434). The grid is gguf's. Knows nothing of the package.
"""

from __future__ import annotations

import functools

import numpy as np

from tests.oracle.iq4 import f16, ratio, running_sum

F32 = np.float32
Array = np.ndarray

UP = np.array([-0.875, 0.125, 1.125], F32)
DOWN = np.array([-1.125, -0.125, 0.875], F32)


@functools.cache
def grid() -> Array:
    """(2048, 8) levels of 0, 1, 2."""
    import gguf

    gguf.quants.IQ1_S.init_grid()
    points = gguf.quants.IQ1_S.grid
    assert points is not None
    return points.reshape(2048, 8).astype(np.int64) + 1


def points(levels: Array, x: Array, weight: Array, scale: Array, values: Array) -> tuple[Array, Array]:
    """(groups, 8) each, (groups,), (groups, 3) -> indices into the grid, and which were on it."""
    apart = ((levels[:, None] - grid()) ** 2).sum(axis=2)
    shells = np.sort(apart, axis=1)
    starts = np.hstack([np.full((len(shells), 1), True), np.diff(shells, axis=1) > 0])
    limit = np.where(starts.cumsum(axis=1) <= 3, shells, 0).max(axis=1, keepdims=True)
    difference = scale[:, None, None] * values[:, grid()] - x[:, None]
    cost = running_sum(weight[:, None] * difference * difference)
    cost[apart > limit] = np.inf
    cheapest = cost == cost.min(axis=1, keepdims=True)
    nearest = np.where(cheapest, apart * 2048 + np.arange(2048), 2**20).argmin(axis=1)
    on_grid = apart.min(axis=1) == 0
    return np.where(on_grid, apart.argmin(axis=1), nearest), on_grid


class Split:
    """The best so far of each sub-block."""

    def __init__(self, largest: Array) -> None:
        self.scale = largest
        self.best = np.full(len(largest), np.finfo(F32).min)
        self.first, self.second, self.kind = (np.full(len(largest), -1) for _ in range(3))

    def consider(self, qx: Array, q2: Array, first: int, second: int, kind: int) -> None:
        better = (q2 > 0) & (qx * qx > self.best * q2)
        scale = ratio(qx, q2, better)
        self.scale = np.where(better, scale, self.scale)
        self.best = np.where(better, scale * qx, self.best)
        for name, value in (("first", first), ("second", second), ("kind", kind)):
            setattr(self, name, np.where(better, value, getattr(self, name)))


def below(terms: Array, order: Array) -> Array:
    """(blocks, n) -> (blocks, n + 1): sums over the elements of the lowest ranks."""
    terms = np.take_along_axis(terms, order, axis=1)
    sums = np.zeros((len(terms), terms.shape[1] + 1), F32)
    for i in range(terms.shape[1]):
        sums[:, i + 1] = sums[:, i] + terms[:, i]
    return sums


def split_iq1_s(x: Array, weight: Array, order: Array, largest: Array) -> Split:
    sx, sw = below(weight * x, order), below(weight, order)
    split = Split(largest)
    n = x.shape[1]
    for first in range(n + 1):
        for second in range(first, n + 1):
            for kind, (low, middle, high) in enumerate((UP, DOWN)):
                qx = sx[:, first] * low + (sx[:, second] - sx[:, first]) * middle + (sx[:, n] - sx[:, second]) * high
                q2 = sw[:, first] * low * low + (sw[:, second] - sw[:, first]) * middle * middle
                split.consider(qx, q2 + (sw[:, n] - sw[:, second]) * high * high, first, second, kind)
    return split


def split_iq1_m(x: Array, weight: Array, order: Array, largest: Array) -> Split:
    n = x.shape[1]
    halves = [np.arange(n) < n // 2, np.arange(n) >= n // 2]
    sx = [below(np.where(half, weight * x, F32(0)), order) for half in halves]
    sw = [below(np.where(half, weight, F32(0)), order) for half in halves]
    split = Split(largest)
    for first in range(n + 1):
        for second in range(first, n + 1):
            qx, q2 = [], []
            for h in range(2):
                for low, middle, high in (UP, DOWN):
                    qx.append(sx[h][:, n] * high - (sx[h][:, first] + sx[h][:, second]))
                    squares = sw[h][:, n] * high * high + sw[h][:, first] * (low * low - middle * middle)
                    q2.append(squares + sw[h][:, second] * (middle * middle - high * high))
            for kind in range(4):
                of_first, of_second = kind // 2, 2 + kind % 2
                split.consider(qx[of_first] + qx[of_second], q2[of_first] + q2[of_second], first, second, kind)
    return split


def search(x: Array, weight: Array, tiny: float, split_of: object, kinds: int) -> tuple[Array, ...]:
    """(sub-blocks, n) each -> scales, indices (sub-blocks, n / 8), kinds, values of the levels of each group."""
    largest = np.abs(x).max(axis=1)
    order = np.argsort(x, axis=1, kind="stable")
    split = split_of(x, weight, order, largest)  # type: ignore[operator]
    used = (largest >= F32(tiny)) & (split.kind >= 0)
    rank = np.argsort(order, axis=1)
    levels = (rank >= split.first[:, None]).astype(np.int64) + (rank >= split.second[:, None])
    negative = used & (split.scale < 0)
    levels = np.where(negative[:, None], 2 - levels, levels)
    scale = np.abs(split.scale)
    kind = np.where(used, np.where(negative, kinds - 1 - split.kind, split.kind), 0)
    n_groups = x.shape[1] // 8
    down = np.stack([kind // 2, kind % 2], axis=1) if kinds == 4 else np.repeat(kind[:, None], n_groups, axis=1)
    values = np.where(down[:, :, None] == 1, DOWN, UP)
    groups = (each.reshape(-1, 8) for each in (levels, x, weight))
    at, on_grid = points(*groups, np.repeat(scale, n_groups), values.reshape(-1, 3))
    q = np.take_along_axis(values.reshape(-1, 3), grid()[at], axis=1).reshape(x.shape)
    qx, q2 = running_sum(weight * q * x), running_sum(weight * q * q)
    again = ~on_grid.reshape(-1, n_groups).all(axis=1) & (qx > 0) & (q2 > 0)
    scale = np.where(again, ratio(qx, q2, again), scale)
    indices = np.where(used[:, None], at.reshape(-1, n_groups), 0)
    return np.where(used, scale, F32(0)), indices, kind, values


def stored_scales(scales: Array, most: Array) -> Array:
    inverse = F32(1) / (most / F32(15))
    level = F32(0.5) * (inverse[:, None] * scales - F32(1))
    return np.clip(np.where(np.isfinite(level), np.rint(level), 0), 0, 7).astype(np.int64)


def column_weights(x: Array, importance: Array) -> Array:
    sigma2 = F32(2) * running_sum(x * x) / F32(256)
    return importance * np.sqrt(sigma2[:, None] + x * x)


def iq1_s(x: Array, importance: Array) -> Array:
    """(super-blocks, 256) -> (super-blocks, 50)."""
    weight = column_weights(x, importance)
    scales, at, kind, _ = search(x.reshape(-1, 32), weight.reshape(-1, 32), 1e-12, split_iq1_s, 2)
    scales, at, kind = scales.reshape(-1, 8), at.reshape(-1, 8, 4), kind.reshape(-1, 8)
    most = scales.max(axis=1)
    stored = stored_scales(scales, most) | kind << 3
    high = (at >> 8 << 3 * np.arange(4)).sum(axis=2) | np.where(most[:, None] > 0, stored << 12, 0)
    d = np.where(most > 0, most / F32(15) * F32(1.125), F32(0))
    return np.hstack([f16(d), (at & 255).astype(np.uint8).reshape(-1, 32), high.astype("<u2").view(np.uint8)])


def iq1_m(x: Array, importance: Array | None = None) -> Array:
    """(super-blocks, 256) -> (super-blocks, 56)."""
    weight = x * x if importance is None else column_weights(x, importance)
    scales, at, kind, values = search(x.reshape(-1, 16), weight.reshape(-1, 16), 1e-7, split_iq1_m, 4)
    scales = scales.reshape(-1, 16)
    most = scales.max(axis=1)
    some = most > 0
    stored = np.where(some[:, None], stored_scales(scales, most), 0)
    q = np.take_along_axis(values, grid()[at].reshape(len(values), 2, 8), axis=2).reshape(-1, 16, 16)
    q = (q * (2 * stored + 1).astype(F32)[:, :, None]).reshape(-1, 256)
    qx, q2 = running_sum(weight * q * x), running_sum(weight * q * q)
    d = np.where(some, np.where(q2 > 0, ratio(qx, q2, q2 > 0), most / F32(15)), F32(0))
    bits = f16(d * F32(1.1125)).view("<u2").astype(np.int64)
    packed = (stored.reshape(-1, 4, 4) << 3 * np.arange(4)).sum(axis=2) | (bits >> 4 * np.arange(4) & 15) << 12
    kind = np.where(some[:, None], kind.reshape(-1, 16), 0)
    high = (at >> 8 << np.array([0, 4])).sum(axis=1).reshape(-1, 16) | kind % 2 << 7 | kind // 2 << 3
    low = (at & 255).astype(np.uint8).reshape(-1, 32)
    return np.hstack([low, high.astype(np.uint8), packed.astype("<u2").view(np.uint8)])
