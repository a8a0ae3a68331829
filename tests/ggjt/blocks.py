"""The blocks of GGJT files in plain NumPy: slow, one line per step, the reference of this folder.

Checked byte for byte against the `quantize` tools of May to July 2023, see golden/make.py.
"""

from __future__ import annotations

import numpy as np

F32 = np.float32


def encode(x: np.ndarray, outtype: str, version: int) -> bytes:
    """x: float32, rows that divide into blocks -> the bytes that a file of `version` holds."""
    if outtype == "f32":
        return x.astype("<f4").tobytes()
    if outtype == "f16":
        return x.astype("<f2").tobytes()
    encoder = {"q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1, "q8_0": _q8_0}[outtype]
    return np.concatenate(encoder(x.reshape(-1, 32), version), axis=1).tobytes()


def _reciprocal(d: np.ndarray) -> np.ndarray:
    return np.divide(F32(1), d, out=np.zeros_like(d), where=d != 0)


def _round(x: np.ndarray) -> np.ndarray:
    """Half away from zero, as roundf; in double, where adding a half does not round."""
    return np.trunc(x + np.copysign(0.5, x).astype(np.float64)).astype(int)


def _scale(d: np.ndarray, wide: bool) -> np.ndarray:
    return d.astype("<f4" if wide else "<f2").view(np.uint8)


def _nibbles(q: np.ndarray, version: int) -> np.ndarray:
    q = (q & 15).astype(np.uint8)
    low, high = (q[:, 0::2], q[:, 1::2]) if version == 1 else (q[:, :16], q[:, 16:])
    return low | high << 4


def _fifth_bits(q: np.ndarray) -> np.ndarray:
    return np.packbits((q >> 4 & 1).astype(np.uint8), axis=1, bitorder="little")


def _largest(x: np.ndarray) -> np.ndarray:
    """The signed value of the first element of largest magnitude."""
    return np.take_along_axis(x, np.argmax(np.abs(x), axis=1)[:, None], axis=1)


def _q4_0(x: np.ndarray, version: int) -> list[np.ndarray]:
    d = _largest(x) / F32(-8)
    scaled = x * _reciprocal(d)
    q = _round(scaled) + 8 if version == 1 else (scaled + F32(8.5)).astype(int)
    return [_scale(d, version < 3), _nibbles(np.minimum(q, 15), version)]


def _q4_1(x: np.ndarray, version: int) -> list[np.ndarray]:
    low = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - low) / F32(15)
    scaled = (x - low) * _reciprocal(d)
    q = _round(scaled) if version == 1 else np.minimum((scaled + F32(0.5)).astype(int), 15)
    return [_scale(d, version < 3), _scale(low, version < 3), _nibbles(q, version)]


def _q5_0(x: np.ndarray, version: int) -> list[np.ndarray]:
    d = _largest(x) / F32(-16)
    q = np.minimum((x * _reciprocal(d) + F32(16.5)).astype(int), 31)
    return [_scale(d, False), _fifth_bits(q), _nibbles(q, version)]


def _q5_1(x: np.ndarray, version: int) -> list[np.ndarray]:
    low = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - low) / F32(31)
    q = ((x - low) * _reciprocal(d) + F32(0.5)).astype(int)
    return [_scale(d, False), _scale(low, False), _fifth_bits(q), _nibbles(q, version)]


def _q8_0(x: np.ndarray, version: int) -> list[np.ndarray]:
    d = np.abs(x).max(axis=1, keepdims=True) / F32(127)
    return [_scale(d, version < 3), _round(x * _reciprocal(d)).astype(np.int8).view(np.uint8)]
