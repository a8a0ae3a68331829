"""The searches of Q2_K ... Q5_K in plain NumPy, with and without importance. Knows nothing of the package.

Every step is one float32 operation and every sum adds its terms one by one, as in quantize_row_*_K_ref and _impl of
ggml-quants.c (llama.cpp b11434). Leading axes are blocks of any number; elements are the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

F32 = np.float32
Array = np.ndarray
TINY = F32(1e-15)


def nearest(x: Array) -> Array:
    """ggml's nearest_int: the low bits of x + 1.5 * 2^23, whatever the exponent; 0 for NaN."""
    bits = (np.where(np.isnan(x), F32(0), x) + F32(12582912)).view(np.int32)
    return (bits & 0x7FFFFF) - 0x400000


def total(terms: Array) -> Array:
    """Over the last axis, from the first term to the last."""
    terms = np.asarray(terms, F32)
    sum = np.zeros(terms.shape[:-1], F32)
    for i in range(terms.shape[-1]):
        sum = sum + terms[..., i]
    return sum


def column(x: Array) -> Array:
    return x[..., None]


def f16(x: Array) -> Array:
    return x.astype(np.float16)


def field(x: Array) -> Array:
    return np.ascontiguousarray(x.astype("<f2")).view(np.uint8).reshape(len(x), 2)


def first_largest(x: Array) -> Array:
    known = np.where(np.isnan(x), F32(0), x)
    return np.take_along_axis(known, column(np.abs(known).argmax(axis=-1)), axis=-1)[..., 0]


@dataclass
class Tries:
    top: int
    start: float
    step: float
    number: int
    absolute: bool = False
    guarded: bool = False


def affine_fit(x: Array, w: Array, tries: Tries) -> tuple[Array, Array, Array]:
    """Scale, negated minimum and levels of each sub-block: make_qkx2_quants, or make_qkx3_quants where guarded."""

    def error(scale: Array, low: Array, q: Array) -> Array:
        off = column(scale) * q.astype(F32) + column(low) - x
        return total(w * (np.abs(off) if tries.absolute else off * off))

    low, high = np.take_along_axis(x, column(x.argmin(axis=-1)), axis=-1)[..., 0], x.max(axis=-1)
    low = np.where(low > 0, F32(0), low)  # of zeros the first, for its sign
    flat = high == low
    weight_sum, x_sum = total(w), total(w * x)
    factor = F32(tries.top) / (high - low)
    scale = F32(1) / factor
    levels = np.clip(nearest(column(factor) * (x - column(low))), 0, tries.top)
    best = error(scale, low, levels)
    for k in range(tries.number):
        factor = (F32(tries.start) + F32(tries.step) * F32(k) + F32(tries.top)) / (high - low)
        scaled = column(factor) * (x - column(low))
        if tries.guarded:
            scaled = np.where(scaled > 0, np.minimum(scaled, F32(tries.top)), F32(0))
        q = np.clip(nearest(scaled), 0, tries.top)
        wq = w * q.astype(F32)
        sum_l, sum_l2, sum_xl = total(wq), total(wq * q.astype(F32)), total(wq * x)
        det = weight_sum * sum_l2 - sum_l * sum_l
        new_scale = (weight_sum * sum_xl - x_sum * sum_l) / det
        new_low = (sum_l2 * x_sum - sum_l * sum_xl) / det
        new_scale = np.where(new_low > 0, sum_xl / sum_l2, new_scale)
        new_low = np.where(new_low > 0, F32(0), new_low)
        found = error(new_scale, new_low, q)
        better = (det > 0) & (found < best) & ~flat
        best = np.where(better, found, best)
        scale, low = np.where(better, new_scale, scale), np.where(better, new_low, low)
        levels = np.where(column(better), q, levels)
    return np.where(flat, F32(0), scale), -low, np.where(column(flat), 0, levels)


def positive_fit(x: Array, w: Array, top: int) -> tuple[Array, Array]:
    """One scale and the integers of a few numbers, as uint8 keeps them: make_qp_quants."""
    most = np.fmax(x.max(axis=-1), F32(0))
    nothing = most < TINY

    def error(inverse: Array, q: Array) -> Array:
        off = x - column(F32(1) / inverse) * q.astype(F32)
        return total(w * off * off)

    inverse = F32(top) / most
    best = error(inverse, nearest(column(inverse) * x) & 0xFF)
    for step in (-4, -3, -2, -1, 1, 2, 3, 4):
        other = (F32(0.1) * F32(step) + F32(top)) / most
        found = error(other, np.minimum(nearest(column(other) * x), top))
        inverse, best = np.where(found < best, other, inverse), np.where(found < best, found, best)
    q = np.minimum(nearest(column(inverse) * x), top)
    sum_lx, sum_l2 = total(w * x * q.astype(F32)), total(w * q.astype(F32) * q.astype(F32))
    q = q & 0xFF
    for _ in range(5):
        for i in range(x.shape[-1]):
            xi, wi, old = x[..., i], w[..., i], q[..., i].astype(F32)
            slx, sl2 = sum_lx - wi * xi * old, sum_l2 - wi * old * old
            allowed = (slx > 0) & (sl2 > 0)
            new = np.minimum(nearest(xi * sl2 / slx), top)
            slx, sl2 = slx + wi * xi * new.astype(F32), sl2 + wi * new.astype(F32) * new.astype(F32)
            better = allowed & (new != q[..., i]) & (slx * slx * sum_l2 > sum_lx * sum_lx * sl2)
            q[..., i] = np.where(better, new & 0xFF, q[..., i])
            sum_lx, sum_l2 = np.where(better, slx, sum_lx), np.where(better, sl2, sum_l2)
    scale = np.where(sum_l2 > 0, sum_lx / sum_l2, F32(0))
    return np.where(nothing, F32(0), scale), np.where(column(nothing), 0, q)


def root_weights(x: Array, importance: Array, variance: Array) -> Array:
    """x, importance: (super-blocks, sub-blocks, elements); variance: (super-blocks,)."""
    return importance * np.sqrt(variance[:, None, None] + x * x)


def six_bit_fields(scales: Array, mins: Array) -> Array:
    """(super-blocks, 8) each, one byte's worth of bits -> (super-blocks, 12)."""
    out = np.zeros((len(scales), 12), np.int64)
    out[:, 0:4], out[:, 4:8] = scales[:, :4], mins[:, :4]
    out[:, 8:12] = scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4
    out[:, 0:4] |= scales[:, 4:] >> 4 << 6
    out[:, 4:8] |= mins[:, 4:] >> 4 << 6
    return out.astype(np.uint8)


def from_six_bit_fields(fields: Array) -> tuple[Array, Array]:
    a, b, c = (fields[:, i : i + 4].astype(np.int64) for i in (0, 4, 8))
    return np.hstack([a & 63, c & 15 | a >> 6 << 4]), np.hstack([b & 63, c >> 4 | b >> 6 << 4])


def final_levels(x: Array, d: Array, offset: Array, top: int, searched: Array) -> Array:
    """Where the step is zero, the levels of the search stay."""
    levels = np.clip(nearest((x + column(offset)) / column(d)), 0, top)
    return np.where(column(d == 0), searched, levels)


def weighted_tries(top: int, guarded: bool) -> Tries:
    return Tries(top, -0.9, 0.05, 37, guarded=guarded)


def wide(x: Array, importance: Array | None, plain: Tries, guarded: bool, cut_weighted: bool) -> Array:
    """Q4_K and Q5_K: (super-blocks, 256) -> (super-blocks, bytes)."""
    sub, top = x.reshape(-1, 8, 32), plain.top
    if importance is None:
        w = column(np.sqrt(total(sub * sub) / F32(32))) + np.abs(sub)
        scales, mins, searched = affine_fit(sub, w, plain)
        most_scale, most_min = (np.fmax(np.fmax.reduce(v, axis=1), F32(0)) for v in (scales, mins))
        ls, lm = (
            np.minimum(nearest(column(np.where(most > 0, F32(63) / most, F32(0))) * v) & 0xFF, 63)
            for most, v in ((most_scale, scales), (most_min, mins))
        )
        d, dmin = most_scale / F32(63), most_min / F32(63)
    else:
        w = root_weights(sub, importance.reshape(-1, 8, 32), F32(2) * total(x * x) / F32(256))
        scales, mins, searched = affine_fit(sub, w, weighted_tries(top, guarded))
        d, ls = positive_fit(scales, total(w), 63)
        dmin, lm = positive_fit(mins, total(w), 63)
        if cut_weighted:
            ls, lm = np.minimum(ls, 63), np.minimum(lm, 63)
    fields = six_bit_fields(ls, lm)
    ls, lm = from_six_bit_fields(fields)
    step, offset = column(f16(d).astype(F32)) * ls.astype(F32), column(f16(dmin).astype(F32)) * lm.astype(F32)
    q = final_levels(sub, step, offset, top, searched)
    pairs = q.reshape(-1, 4, 2, 32)
    low = (pairs[:, :, 0] & 15 | (pairs[:, :, 1] & 15) << 4).astype(np.uint8).reshape(len(x), 128)
    if top == 15:
        return np.hstack([field(d), field(dmin), fields, low])
    fifth = np.packbits((q >> 4).astype(np.uint8), axis=1, bitorder="little").reshape(len(x), 32)
    return np.hstack([field(d), field(dmin), fields, fifth, low])


def q4_k(x: Array, importance: Array | None = None, guarded: bool = True) -> Array:
    return wide(x, importance, Tries(15, -1, 0.1, 21), guarded, cut_weighted=False)


def q5_k(x: Array, importance: Array | None = None, guarded: bool = True) -> Array:
    return wide(x, importance, Tries(31, -0.5, 0.1, 16), guarded, cut_weighted=True)


def two_bits(q: Array) -> Array:
    """(super-blocks, 256) -> (super-blocks, 64): byte 32 h + j holds element j of each run of 32 of half h."""
    runs = q.reshape(-1, 2, 4, 32)
    packed = runs[:, :, 0] | runs[:, :, 1] << 2 | runs[:, :, 2] << 4 | runs[:, :, 3] << 6
    return packed.astype(np.uint8).reshape(-1, 64)


def from_two_bits(qs: Array) -> Array:
    runs = qs.reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1) & 3
    return runs.reshape(-1, 256).astype(np.int64)


def q2_k(x: Array, importance: Array | None = None, guarded: bool = True) -> Array:
    sub = x.reshape(-1, 16, 16)
    if importance is None:
        scales, mins, searched = affine_fit(sub, np.abs(sub), Tries(3, -0.5, 0.1, 16, absolute=True))
        most_scale, most_min = (np.fmax(np.fmax.reduce(v, axis=1), F32(0)) for v in (scales, mins))
        ls, lm = (
            nearest(column(np.where(most > 0, F32(15) / most, F32(0))) * v) & 0xFF
            for most, v in ((most_scale, scales), (most_min, mins))
        )
        d, dmin = most_scale / F32(15), most_min / F32(15)
    else:
        w = root_weights(sub, importance.reshape(-1, 16, 16), total(x * x) / F32(256))
        scales, mins, searched = affine_fit(sub, w, weighted_tries(3, guarded))
        d, ls = positive_fit(scales, total(w), 15)
        dmin, lm = positive_fit(mins, total(w), 15)
    fields = (ls | lm << 4).astype(np.uint8)
    step = column(f16(d).astype(F32)) * (fields & 15).astype(F32)
    offset = column(f16(dmin).astype(F32)) * (fields >> 4).astype(F32)
    q = final_levels(sub, step, offset, 3, searched)
    return np.hstack([fields, two_bits(q), field(d), field(dmin)])


def signed_fit(x: Array, w: Array, top: int) -> tuple[Array, Array]:
    """Scale and levels from 0 to 2 top - 1, the best of 19 tries: make_qx_quants with rmse_type 1 and weights."""
    largest = first_largest(x)
    nothing = np.abs(largest) < TINY
    scale = best = levels = None
    for step in (0, *range(-9, 0), *range(1, 10)):
        factor = -(F32(top) + F32(0.1) * F32(step)) / largest
        q = np.clip(nearest(column(factor) * x), -top, top - 1)
        sum_lx, sum_l2 = total(w * x * q.astype(F32)), total(w * q.astype(F32) * q.astype(F32))
        ratio = np.where(sum_l2 != 0, sum_lx / sum_l2, F32(0))
        if scale is None:
            scale, best, levels = ratio, ratio * sum_lx, q
            continue
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        scale, best = np.where(better, ratio, scale), np.where(better, ratio * sum_lx, best)
        levels = np.where(column(better), q, levels)
    return np.where(nothing, F32(0), scale), np.where(column(nothing), 0, levels + top)


def refined_fit(x: Array) -> tuple[Array, Array]:
    """Scale and levels from 0 to 7, refined one by one: make_q3_quants."""
    largest = first_largest(x)
    nothing = np.abs(largest) < TINY
    w = x * x
    q = np.clip(nearest(column(F32(-4) / largest) * x), -4, 3)
    sum_lx, sum_l2 = total(w * x * q.astype(F32)), total(w * q.astype(F32) * q.astype(F32))
    for _ in range(5):
        for i in range(x.shape[-1]):
            xi, wi, old = x[..., i], w[..., i], q[..., i].astype(F32)
            slx, sl2 = sum_lx - wi * xi * old, sum_l2 - wi * old * old
            new = np.clip(nearest(xi * sl2 / slx), -4, 3)
            allowed = (slx > 0) & (new != q[..., i])
            slx, sl2 = slx + wi * xi * new.astype(F32), sl2 + wi * new.astype(F32) * new.astype(F32)
            better = allowed & (sl2 > 0) & (slx * slx * sum_l2 > sum_lx * sum_lx * sl2)
            q[..., i] = np.where(better, new, q[..., i])
            sum_lx, sum_l2 = np.where(better, slx, sum_lx), np.where(better, sl2, sum_l2)
    scale = np.where(sum_l2 > 0, sum_lx / sum_l2, F32(0))
    return np.where(nothing, F32(0), scale), np.where(column(nothing), 0, q + 4)


def q3_k(x: Array, importance: Array | None = None, guarded: bool = True) -> Array:
    sub = x.reshape(-1, 16, 16)
    if importance is None:
        scales, searched = refined_fit(sub)
        largest = first_largest(scales)
        factor = F32(-32) / largest
        ls = np.clip((nearest(column(factor) * scales) & 0xFF).astype(np.uint8).view(np.int8), -32, 31).astype(int) + 32
        ls = np.where(column(largest != 0), ls, 0)
        d = np.where(largest != 0, F32(1) / factor, F32(0))
    else:
        w = root_weights(sub, importance.reshape(-1, 16, 16), F32(2) * total(x * x) / F32(256))
        scales, searched = signed_fit(sub, w, 4)
        d, ls = signed_fit(scales, total(w), 32)
    step = column(f16(d).astype(F32)) * (ls - 32).astype(F32)
    q = np.clip(nearest(sub / column(step)), -4, 3) + 4
    q = np.where(column(step == 0), searched, q)
    fields = np.hstack([ls[:, :8] & 15 | (ls[:, 8:] & 15) << 4, np.zeros((len(x), 4), np.int64)])
    for j in range(16):
        fields[:, 8 + j % 4] |= ls[:, j] >> 4 << 2 * (j // 4)
    high = np.packbits((q >> 2).reshape(-1, 8, 32).astype(np.uint8), axis=1, bitorder="little").reshape(-1, 32)
    return np.hstack([high, two_bits(q & 3), fields.astype(np.uint8), field(d)])


ENCODERS: dict[str, Callable[..., Array]] = {"q5_k": q5_k, "q4_k": q4_k, "q3_k": q3_k, "q2_k": q2_k}


def scale_of(block: Array, at: int) -> Array:
    return np.ascontiguousarray(block[:, at : at + 2]).view("<f2").astype(F32)


def affine(block: Array, d: int, dmin: int, scales: Array, mins: Array, q: Array) -> Array:
    step, offset = scale_of(block, d) * scales.astype(F32), scale_of(block, dmin) * mins.astype(F32)
    return column(step) * q.reshape(len(block), scales.shape[1], -1).astype(F32) - column(offset)


def decode_wide(block: Array, fifth: bool) -> Array:
    low = block[:, -128:].reshape(-1, 4, 32).astype(np.int64)
    q = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 8, 32)
    if fifth:
        bits = np.unpackbits(block[:, 16:48].reshape(-1, 1, 32), axis=1, bitorder="little")
        q = q | bits.astype(np.int64) << 4
    return affine(block, 0, 2, *from_six_bit_fields(block[:, 4:16]), q)


def decode_q2_k(block: Array) -> Array:
    fields = block[:, :16]
    return affine(block, 80, 82, fields & 15, fields >> 4, from_two_bits(block[:, 16:80]))


def decode_q3_k(block: Array) -> Array:
    high = np.unpackbits(block[:, :32].reshape(-1, 1, 32), axis=1, bitorder="little").reshape(-1, 256)
    q = from_two_bits(block[:, 32:96]) + 4 * high.astype(np.int64) - 4
    fields = block[:, 96:108].astype(np.int64)
    low = np.hstack([fields[:, :8] & 15, fields[:, :8] >> 4])
    scales = low + 16 * np.hstack([fields[:, 8:] >> 2 * i & 3 for i in range(4)]) - 32
    return column(scale_of(block, 108) * scales.astype(F32)) * q.reshape(-1, 16, 16).astype(F32)


# name -> (bytes of a super-block, its decoder)
DECODERS: dict[str, tuple[int, Callable[[Array], Array]]] = {
    "q5_k": (176, lambda block: decode_wide(block, fifth=True)),
    "q4_k": (144, lambda block: decode_wide(block, fifth=False)),
    "q3_k": (110, decode_q3_k),
    "q2_k": (84, decode_q2_k),
}


def decode(blocks: Array, type: str) -> Array:
    """(rows, row bytes) uint8 -> (rows, columns) float32."""
    size, decoder = DECODERS[type]
    return decoder(np.ascontiguousarray(blocks).reshape(-1, size)).reshape(len(blocks), -1)
