"""K-quants where their searches are nearly undecided: ggml's bytes at the thresholds of tries and at ties of errors."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv import _native
from tests.kernels import ggml
from tests.kernels.test_encode import assert_same_blocks
from tests.kernels.test_encode_weighted import assert_ggml_writes, importances


def near_thresholds(rng: np.random.Generator, n_blocks: int, top: int, size: int) -> np.ndarray:
    """Elements that one of the first tries of a search for scale and minimum takes to a half, give or take an ulp."""
    low = -np.abs(rng.standard_normal((n_blocks * 256 // size, 1)))
    high = low + np.exp(rng.standard_normal(low.shape))
    numerators = top + 0.05 * rng.integers(-20, 21, (len(low), size))
    levels = np.minimum((rng.integers(0, top + 1, numerators.shape) + 0.5) / numerators, 1)
    x = (low + levels * (high - low)).astype(np.float32)
    x = (x.view(np.int32) + rng.integers(-1, 2, x.shape, dtype=np.int32)).view(np.float32)
    first, second = rng.permuted(np.tile(np.arange(size), (len(low), 1)), axis=1)[:, :2].T
    x[np.arange(len(x)), first], x[np.arange(len(x)), second] = low[:, 0], high[:, 0]
    return x.reshape(n_blocks, 256)


# Scales where weighted squares underflow, are denormal, ordinary, about to overflow, infinite; and where ranges do.
@pytest.mark.parametrize(("type", "top", "size"), [("q4_k", 15, 32), ("q5_k", 31, 32), ("q2_k", 3, 16)])
@pytest.mark.parametrize("exponent", [-149, -126, -76, -60, -50, -40, 0, 15, 30, 40, 42, 60, 64, 120, 127])
def test_at_the_thresholds_of_their_tries(type: str, top: int, size: int, exponent: int, isa: str) -> None:
    x = near_thresholds(np.random.default_rng(exponent + 200), 100, top, size).astype(np.float64)
    x = np.clip(x * 2.0**exponent, -3.4e38, 3.4e38).astype(np.float32)
    assert_same_blocks(_native.quantize(x, type, isa=isa), ggml.quantize(x, type), type)


def refining_to_halves(rng: np.random.Generator, n_blocks: int) -> np.ndarray:
    """Elements that the scale which fits all others takes to a half, give or take two units in the last place."""
    first = -np.exp(rng.standard_normal((n_blocks * 16, 1)))
    x = first * rng.uniform(-1, 1, (len(first), 16))
    x[:, :1] = first
    level = np.clip(np.rint(-4 * x / first), -4, 3)
    for i in range(1, 16):
        lx, l2 = x**3 * level, x**2 * level**2
        scale = (lx.sum(axis=1) - lx[:, i]) / (l2.sum(axis=1) - l2[:, i])
        half = scale * (rng.integers(-4, 3, len(x)) + 0.5)
        moved = (np.abs(half) < np.abs(first[:, 0])) & (rng.random(len(x)) < 0.3)
        x[:, i] = np.where(moved, half, x[:, i])
        level[:, i] = np.clip(np.rint(-4 * x[:, i] / first[:, 0]), -4, 3)
    x = x.astype(np.float32)
    x = (x.view(np.int32) + rng.integers(-2, 3, x.shape, dtype=np.int32)).view(np.float32)
    return rng.permuted(x, axis=1).reshape(n_blocks, 256)


@pytest.mark.parametrize("exponent", [-48, -44, -40, -30, -20, 0, 20, 30, 38, 40, 42, 60, 62, 120])
def test_q3_k_where_levels_are_refined_to_halves(exponent: int, isa: str) -> None:
    x = refining_to_halves(np.random.default_rng(exponent + 100), 200) * np.float32(2.0**exponent)
    assert_same_blocks(_native.quantize(x, "q3_k", isa=isa), ggml.quantize(x, "q3_k"), "q3_k")


# Sub-blocks are put together by what their search takes, so each finds others beside it.
@pytest.mark.parametrize("at_once", [1, 2, 5, 16, 17, 128, 129, 300])
def test_q3_k_whatever_is_encoded_together(at_once: int, isa: str) -> None:
    x = refining_to_halves(np.random.default_rng(7), 300) * np.float32(0.02)
    x[::7] = np.random.default_rng(8).standard_normal((43, 256))
    x[3::50] = 0
    x[100:128] = -1
    want = ggml.quantize(x, "q3_k")
    for at in range(0, len(x), at_once):
        part = x[at : at + at_once].reshape(1, -1)
        assert_same_blocks(_native.quantize(part, "q3_k", isa=isa), want[at : at + at_once].reshape(1, -1), "q3_k")


# Few distinct values, and values far from zero: sums of tries that are equal, determinants that are all rounding.
@pytest.mark.parametrize("type", ["q4_k", "q5_k", "q3_k", "q2_k"])
@pytest.mark.parametrize("largest", [1, 2, 3, 5, 15, 16, 31, 62])
def test_where_tries_are_nearly_equal(type: str, largest: int, isa: str) -> None:
    rng = np.random.default_rng(largest)
    for shift in (0, 1, -1, 1e3, -1e3, 1e6, -1e6):
        x = (rng.integers(-largest, largest + 1, (100, 256)) + largest * shift) * rng.standard_normal((100, 1))
        x = x.astype(np.float32)
        assert_same_blocks(_native.quantize(x, type, isa=isa), ggml.quantize(x, type), type)


# With importance, tries are passed over until a level changes: here one does at the very numerator of a try.
@pytest.mark.parametrize(("type", "top", "size"), [("q4_k", 15, 32), ("q5_k", 31, 32), ("q2_k", 3, 16)])
@pytest.mark.parametrize("exponent", [-60, -40, -10, 0, 10, 30, 60])
def test_with_importance_at_the_thresholds(type: str, top: int, size: int, exponent: int, isa: str) -> None:
    x = near_thresholds(np.random.default_rng(exponent + 300), 300, top, size) * np.float32(2.0**exponent)
    for importance in ("even", "mean squares", "half zero"):
        weights = importances()[importance][:256]
        assert_ggml_writes(_native.quantize(x, type, isa=isa, importance=weights), x, type, weights)


# With importance, a try whose minimum reaches the maximum: the range of the next is zero, of either sign, or negative.
@pytest.mark.parametrize("type", ["q4_k", "q5_k", "q2_k"])
@pytest.mark.parametrize("largest", [1, 2, 5, 31])
def test_with_importance_where_ranges_vanish(type: str, largest: int) -> None:
    rng = np.random.default_rng(largest)
    heeded = rng.random((200, 256)) < 0.3
    x = np.where(
        heeded, np.copysign(0.0, rng.standard_normal(heeded.shape)), -rng.integers(0, largest + 1, heeded.shape)
    )
    x = (x * rng.standard_normal((200, 1))).astype(np.float32)
    for importance in (importances()["half zero"][:256], (rng.random(256) < 0.2).astype(np.float32)):
        for isa in _native.isas():
            assert_ggml_writes(_native.quantize(x, type, isa=isa, importance=importance), x, type, importance)
