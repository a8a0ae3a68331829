"""f32 to f16 and bf16: every boundary between two values, and the rounding half away from zero of q8_0."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv import _native
from tests.kernels import ggml


def around_boundaries(all_finite: np.ndarray) -> np.ndarray:
    """Each value, the middle to the next one, and the f32 on both sides of these."""
    values = np.sort(all_finite.astype(np.float64))
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(np.float32)
    inf = np.float32(np.inf)
    with np.errstate(all="ignore"):
        return np.concatenate([points, np.nextafter(points, inf), np.nextafter(points, -inf)])


def f16_points() -> np.ndarray:
    values = np.arange(65536, dtype=np.uint16).view(np.float16)
    past = np.float32([65504, 65519.996, 65520, 65520.004, 65536, 1e6, 3e38, 2.0**-25, 2.0**-26, 1e-40, 2.0**-149, 0])
    return np.concatenate([around_boundaries(values[np.isfinite(values)]), past, -past])


def bf16_points() -> np.ndarray:
    values = (np.arange(65536, dtype=np.uint32) << 16).view(np.float32)
    past = np.float32([3.3895314e38, 3.3961775e38, 3.3961777e38, 3.4028235e38])
    return np.concatenate([around_boundaries(values[np.isfinite(values)]), past, -past])


@pytest.mark.parametrize(("type", "points"), [("f16", f16_points), ("bf16", bf16_points)])
def test_every_boundary(type: str, points: object, isa: str) -> None:
    x = points()[None]  # type: ignore[operator]
    got = _native.quantize(x, type, isa=isa).view("<u2")
    assert (got == ggml.quantize(x, type).view("<u2")).all()
    if type == "f16":
        with np.errstate(all="ignore"):
            assert (got == x.astype(np.float16).view(np.uint16)).all()


@pytest.mark.parametrize("type", ["f16", "bf16"])
def test_random_bits_and_nan(type: str, isa: str) -> None:
    bits = np.random.default_rng(11).integers(0, 2**32, (1, 1 << 20), dtype=np.uint32)
    nan = np.uint32([0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000])
    x = np.concatenate([bits, nan[None]], axis=1).view(np.float32)
    assert (_native.quantize(x, type, isa=isa) == ggml.quantize(x, type)).all()


def test_half_away_from_zero(isa: str) -> None:
    # A block whose largest element is 127 has scale 1: every other element is rounded as it stands.
    halves = np.arange(0, 127, dtype=np.float32) + np.float32(0.5)
    near = np.concatenate([halves, np.nextafter(halves, np.float32(0)), np.nextafter(halves, np.float32(999))])
    near = near[np.abs(near) <= 127]
    near = np.concatenate([near, -near, np.float32([0.0, -0.0, 0.49999997, -0.49999997])])
    x = np.zeros((len(near), 32), np.float32)
    x[:, 0] = 127
    x[:, 1:] = near[:, None]
    got = _native.quantize(x, "q8_0", isa=isa)[:, 2:].view(np.int8)
    want = np.copysign(np.floor(np.abs(near.astype(np.float64)) + 0.5), near)
    assert (got[:, 0] == 127).all()
    assert (got[:, 1:] == want[:, None]).all()
