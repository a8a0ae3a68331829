"""Quantizers in plain NumPy: the oracle of the tests, the baseline of the benchmarks. Knows nothing of the package.

Every step is one float32 operation, as in quantize_row_*_ref of ggml-quants.c (llama.cpp b11434); blocks of older files
follow llama.cpp pull requests 193, 729, 1046, 1405 and 1508.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from tests.oracle import iq4, k_quants, ternary, weighted

F32 = np.float32
Array = np.ndarray


def to_int(x: Array) -> Array:
    """Towards zero; 0 for NaN and what an int32 cannot hold: the low byte that x86 gives, undefined in C."""
    return np.where(np.abs(x) < 2.0**31, x, F32(0)).astype(np.int32)


def round_away(x: Array) -> Array:
    """roundf: half away from zero. The fraction is exact."""
    whole = np.trunc(x)
    return to_int(whole + np.copysign(np.abs(x - whole) >= F32(0.5), x))


def inverse(d: Array) -> Array:
    return np.divide(F32(1), d, out=np.zeros_like(d), where=d != 0)


def first_largest(x: Array) -> Array:
    """(blocks, 32) -> (blocks, 1): the first element of largest magnitude, +0 for a block of zeros."""
    at = np.abs(x).argmax(axis=1, keepdims=True)
    largest = np.take_along_axis(x, at, axis=1)
    return np.where(largest == 0, F32(0), largest)


def minimum_and_step(x: Array, levels: int) -> tuple[Array, Array]:
    low = np.take_along_axis(x, x.argmin(axis=1, keepdims=True), axis=1)
    high = np.take_along_axis(x, x.argmax(axis=1, keepdims=True), axis=1)
    return low, (high - low) / F32(levels)


def as_bytes(field: Array, dtype: str) -> Array:
    return np.ascontiguousarray(field.astype(dtype)).view(np.uint8).reshape(len(field), -1)


def halves(q: Array) -> Array:
    """Byte i = q[i] | q[i + 16] << 4: GGJT v2 and later."""
    return (q[:, :16] & 15 | (q[:, 16:] & 15) << 4).astype(np.uint8)


def pairs(q: Array) -> Array:
    """Byte i = q[2 i] | q[2 i + 1] << 4: before GGJT v2."""
    return (q[:, 0::2] & 15 | (q[:, 1::2] & 15) << 4).astype(np.uint8)


def fifth_bits(q: Array) -> Array:
    return np.packbits((q >> 4 & 1).astype(np.uint8), axis=1, bitorder="little")


def q4_0(x: Array, field: str = "<f2", pack: Callable[[Array], Array] = halves, rounded: bool = False) -> Array:
    d = first_largest(x) / F32(-8)
    scaled = x * inverse(d)
    q = np.minimum(round_away(scaled) + 8 if rounded else to_int(scaled + F32(8.5)), 15)
    return np.hstack([as_bytes(d, field), pack(q)])


def q4_1(x: Array, field: str = "<f2", pack: Callable[[Array], Array] = halves, rounded: bool = False) -> Array:
    m, d = minimum_and_step(x, 15)
    scaled = (x - m) * inverse(d)
    q = np.minimum(round_away(scaled) if rounded else to_int(scaled + F32(0.5)), 15)
    return np.hstack([as_bytes(d, field), as_bytes(m, field), pack(q)])


def q5_0(x: Array, pack: Callable[[Array], Array] = halves) -> Array:
    d = first_largest(x) / F32(-16)
    q = np.minimum(to_int(x * inverse(d) + F32(16.5)), 31)
    return np.hstack([as_bytes(d, "<f2"), fifth_bits(q), pack(q)])


def q5_1(x: Array, pack: Callable[[Array], Array] = halves) -> Array:
    m, d = minimum_and_step(x, 31)
    q = to_int((x - m) * inverse(d) + F32(0.5))
    return np.hstack([as_bytes(d, "<f2"), as_bytes(m, "<f2"), fifth_bits(q), pack(q)])


def q8_0(x: Array, field: str = "<f2") -> Array:
    d = np.abs(x).max(axis=1, keepdims=True) / F32(127)
    return np.hstack([as_bytes(d, field), round_away(x * inverse(d)).astype(np.int8).view(np.uint8)])


def q6_k(x: Array, weight: Array | None = None) -> Array:
    """(super-blocks, 256) -> (super-blocks, 210)."""
    sub_blocks = x.reshape(-1, 16)
    weight = sub_blocks * sub_blocks if weight is None else weight.reshape(-1, 16)
    scales, levels = weighted.best_scale(sub_blocks, weight, 32)
    scales, levels = scales.reshape(-1, 16), levels.reshape(-1, 16, 16).astype(np.int64)
    known = np.where(np.isnan(scales), F32(0), scales)
    largest = np.take_along_axis(known, np.abs(known).argmax(axis=1)[:, None], axis=1)
    factor = F32(-128) / largest
    d = (F32(1) / factor).astype(np.float16)
    sub = np.minimum(weighted.nearest(factor * scales), 127).astype(np.int64).astype(np.int8)
    step = d.astype(F32) * sub.astype(F32)
    requantized = np.clip(weighted.nearest(x.reshape(-1, 16, 16) / step[:, :, None]), -32, 31).astype(np.int64)
    q = np.where((step != 0)[:, :, None], requantized, levels).reshape(-1, 2, 4, 32) + 32
    low, high = q & 15, q >> 4
    ql = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2)
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    out = np.hstack(
        [
            ql.reshape(-1, 128).astype(np.uint8),
            qh.reshape(-1, 64).astype(np.uint8),
            sub.view(np.uint8),
            as_bytes(d, "<f2"),
        ]
    )
    out[np.abs(largest[:, 0]) < F32(1e-15)] = 0
    return out


def f16(x: Array) -> Array:
    return x.astype("<f2").view(np.uint8)


def bf16(x: Array) -> Array:
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype("<u2").view(np.uint8)


# name -> (elements in a block, (blocks, elements) float32 -> (blocks, bytes) uint8)
ENCODERS: dict[str, tuple[int, Callable[[Array], Array]]] = {
    "f32": (1, lambda x: x.view(np.uint8)),
    "f16": (1, f16),
    "bf16": (1, bf16),
    "q8_0": (32, q8_0),
    "q5_1": (32, q5_1),
    "q5_0": (32, q5_0),
    "q4_1": (32, q4_1),
    "q4_0": (32, q4_0),
    "q6_k": (256, q6_k),
    **{name: (256, encoder) for name, encoder in k_quants.ENCODERS.items()},
    "iq4_nl": (32, iq4.iq4_nl),
    "iq4_xs": (256, iq4.iq4_xs),
    "tq2_0": (256, ternary.tq2_0),
    "tq1_0": (256, ternary.tq1_0),
    "q4_0_v1": (32, lambda x: q4_0(x, "<f4", pairs, rounded=True)),
    "q4_1_v1": (32, lambda x: q4_1(x, "<f4", pairs, rounded=True)),
    "q5_0_v1": (32, lambda x: q5_0(x, pairs)),
    "q5_1_v1": (32, lambda x: q5_1(x, pairs)),
    "q8_0_v1": (32, lambda x: q8_0(x, "<f4")),
    "q4_0_v2": (32, lambda x: q4_0(x, "<f4")),
    "q4_1_v2": (32, lambda x: q4_1(x, "<f4")),
}


# The same for encoders that heed importance: (blocks, elements) float32, the importance of each -> (blocks, bytes).
# Those with 0 elements are given whole rows.
WEIGHTED_ENCODERS: dict[str, tuple[int, Callable[[Array, Array], Array]]] = {
    **{name: (256, encoder) for name, encoder in k_quants.ENCODERS.items()},
    "iq4_nl": (32, iq4.iq4_nl),
    "iq4_xs": (256, iq4.iq4_xs),
    "q6_k": (256, q6_k),
    **{name: (0, encoder) for name, encoder in weighted.ENCODERS.items()},
}


# As ggml 0.13 did it: a level of a try for scale and minimum, however large, is rounded before it is clamped.
UNGUARDED_ENCODERS: dict[str, tuple[int, Callable[[Array, Array], Array]]] = {
    **{name: (256, functools.partial(encoder, guarded=False)) for name, encoder in k_quants.ENCODERS.items()},
    **{name: (0, functools.partial(weighted.ENCODERS[name], guarded=False)) for name in ("q5_1", "q4_1")},
}


@np.errstate(all="ignore")
def encode(x: Array, type: str, importance: Array | None = None, guarded: bool = True) -> Array:
    """(rows, columns) float32, importance (columns,) -> (rows, row bytes) uint8."""
    x = np.ascontiguousarray(x, F32)
    if importance is None:
        elements, encoder = ENCODERS[type]
        return encoder(x.reshape(-1, elements)).reshape(len(x), -1)
    elements, weighted_encoder = (WEIGHTED_ENCODERS if guarded else UNGUARDED_ENCODERS)[type]
    elements = elements or x.shape[1]
    each = np.tile(importance, (len(x), 1)).reshape(-1, elements)
    return weighted_encoder(x.reshape(-1, elements), each).reshape(len(x), -1)


def field(block: Array, at: int, dtype: str) -> tuple[Array, int]:
    size = np.dtype(dtype).itemsize
    return np.ascontiguousarray(block[:, at : at + size]).view(dtype).astype(F32), at + size


def nibbles(packed: Array, paired: bool) -> Array:
    low, high = packed & 15, packed >> 4
    return (np.stack([low, high], axis=2).reshape(-1, 32) if paired else np.hstack([low, high])).astype(np.int64)


def decode_planar(row: Array, type: str) -> Array:
    """A row of March 2023: minima (q4_1), scales, levels in pairs."""
    n = len(row) // (20 if type == "q4_0_planar" else 24)
    heads = np.ascontiguousarray(row[: len(row) - 16 * n]).view("<f4").reshape(-1, n)
    q = nibbles(row[len(row) - 16 * n :].reshape(n, 16), paired=True).astype(F32)
    x = (q - F32(8)) * heads[0][:, None] if len(heads) == 1 else q * heads[1][:, None] + heads[0][:, None]
    return x.reshape(-1)


# name -> elements, bytes of float16 scales, of the types of April 2023 in pairs
SHORT_LIVED = {"q4_2": (16, 2), "q4_3": (16, 4)}


def decode_short_lived(blocks: Array, type: str) -> Array:
    elements, head = SHORT_LIVED[type]
    block = blocks.reshape(-1, head + elements // 2)
    packed = block[:, head:]
    q = np.stack([packed & 15, packed >> 4], axis=2).reshape(-1, elements).astype(F32)
    d, _ = field(block, 0, "<f2")
    x = (q - F32(8)) * d if type == "q4_2" else q * d + field(block, 2, "<f2")[0]
    return x.reshape(len(blocks), -1)


# name -> bytes of a block, (blocks, bytes) uint8 -> (blocks, elements) float32
DECODERS: dict[str, tuple[int, Callable[[Array], Array]]] = {
    "iq4_nl": (18, iq4.decode_iq4_nl),
    "iq4_xs": (136, iq4.decode_iq4_xs),
    "tq2_0": (66, ternary.decode_tq2_0),
    "tq1_0": (54, ternary.decode_tq1_0),
}


@np.errstate(all="ignore")
def decode(blocks: Array, type: str) -> Array:
    """(rows, row bytes) uint8 -> (rows, columns) float32, of the block types."""
    name, _, version = type.partition("_v")
    if type.endswith("_planar"):
        return np.stack([decode_planar(row, type) for row in blocks])
    if type in SHORT_LIVED:
        return decode_short_lived(blocks, type)
    if type in k_quants.DECODERS:
        return k_quants.decode(blocks, type)
    if type in DECODERS:
        size, decoder = DECODERS[type]
        return decoder(np.ascontiguousarray(blocks).reshape(-1, size)).reshape(len(blocks), -1)
    if type == "q6_k":
        return decode_q6_k(blocks.reshape(-1, 210)).reshape(len(blocks), -1)
    fifth, centred = name.startswith("q5"), name.endswith("_0")
    wide = bool(version) and not fifth  # d and m in float32
    size = (4 if wide else 2) * (1 if centred else 2) + (4 if fifth else 0) + (32 if name == "q8_0" else 16)
    block = np.ascontiguousarray(blocks).reshape(-1, size)
    d, at = field(block, 0, "<f4" if wide else "<f2")
    if name == "q8_0":
        return (block[:, at:].view(np.int8).astype(F32) * d).reshape(len(blocks), -1)
    m = None
    if not centred:
        m, at = field(block, at, "<f4" if wide else "<f2")
    q = nibbles(block[:, size - 16 :], paired=version == "1")
    if fifth:
        q = q | np.unpackbits(block[:, at : at + 4], axis=1, bitorder="little").astype(np.int64) << 4
    if centred:
        q = q - (16 if fifth else 8)
    x = q.astype(F32) * d
    return (x if m is None else x + m).reshape(len(blocks), -1)


def decode_q6_k(block: Array) -> Array:
    ql = block[:, :128].reshape(-1, 2, 2, 32).astype(np.int64)
    qh = block[:, 128:192].reshape(-1, 2, 1, 32).astype(np.int64)
    low = np.concatenate([ql & 15, ql >> 4], axis=2)
    q = low | (qh >> np.array([0, 2, 4, 6]).reshape(1, 1, 4, 1) & 3) << 4
    scales = block[:, 192:208].view(np.int8).astype(F32)
    d = np.ascontiguousarray(block[:, 208:]).view("<f2").astype(F32)
    return (q.reshape(-1, 16, 16) - 32).astype(F32) * (d * scales)[:, :, None]
