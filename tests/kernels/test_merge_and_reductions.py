"""The low-rank update, the largest magnitude and the sum of squares: the same bits everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import _native
from tests.oracle import merge as oracle


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rank", [1, 2, 8, 16, 33])
@pytest.mark.parametrize(("n_rows", "n_cols"), [(1, 1), (3, 15), (4, 64), (5, 100), (7, 256), (9, 161), (16, 576)])
def test_update(n_rows: int, n_cols: int, rank: int, isa: str) -> None:
    rng = np.random.default_rng(rank)
    rows, b, a = normal(rng, n_rows, n_cols), normal(rng, n_rows, rank), normal(rng, rank, n_cols)
    want = oracle.lora_add(rows, b, a, 0.3)
    _native.lora_add(rows, b, a, 0.3, isa)
    assert (rows.view(np.uint32) == want.view(np.uint32)).all()


def test_update_is_close_to_the_truth(isa: str) -> None:
    rng = np.random.default_rng(0)
    rows, b, a = normal(rng, 8, 96), normal(rng, 8, 16), normal(rng, 16, 96)
    want = rows.astype(np.float64) + 2.0 * (b.astype(np.float64) @ a.astype(np.float64))
    _native.lora_add(rows, b, a, 2.0, isa)
    np.testing.assert_allclose(rows, want, rtol=0, atol=2e-5)


def test_update_of_rank_zero_changes_nothing(isa: str) -> None:
    rows = np.full((2, 32), -0.0, np.float32)
    _native.lora_add(rows, np.empty((2, 0), np.float32), np.empty((0, 32), np.float32), 1.0, isa)
    assert np.signbit(rows).all()


def test_update_keeps_what_a_fused_product_would_lose(isa: str) -> None:
    # (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: f32 drops the last term, a fused multiply-add would keep it.
    x = np.float32(1 + 2.0**-12)
    rows = np.zeros((4, 64), np.float32)
    b, a = np.float32([[-1, x]] * 4), np.vstack([np.full(64, 1 + 2.0**-11), np.full(64, x)]).astype(np.float32)
    _native.lora_add(rows, b, a, 1.0, isa)
    assert (rows == 0).all()


@settings(max_examples=100, deadline=None)
@given(n=st.integers(0, 200), seed=st.integers(0, 1000), scale=st.sampled_from([1e-42, 1e-20, 1.0, 1e30]))
def test_reductions(n: int, seed: int, scale: float) -> None:
    x = (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)
    for isa in _native.isas():
        assert _native.max_abs(x, isa) == (float(np.abs(x).max()) if n else 0.0)
        got = _native.sum_of_squares(x, isa)
        assert got == oracle.sum_of_squares(x)
        assert math.isclose(got, math.fsum(float(v) ** 2 for v in x), rel_tol=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(0, 600), seed=st.integers(0, 1000), scale=st.sampled_from([1e-42, 1e-20, 1e-9, 1.0, 1e14, 1e20, 1e38])
)
def test_square_norm(n: int, seed: int, scale: float) -> None:
    # From n = 300 on every other element is too small to be seen beside the rest.
    x = np.random.default_rng(seed).standard_normal(n) * scale
    x = np.clip(np.where((np.arange(n) % 2 == 0) & (n >= 300), x * 1e-25, x), -3e38, 3e38).astype(np.float32)
    for isa in _native.isas():
        got = _native.square_norm(x, isa)
        assert got == oracle.square_norm(x)
        assert math.isclose(got, math.fsum(float(v) ** 2 for v in x), rel_tol=1e-6)


def test_square_norm_of_what_is_not_finite(isa: str) -> None:
    for value in (np.inf, np.nan):
        x = np.ones(200, np.float32)
        x[77] = value
        assert str(_native.square_norm(x, isa)) == str(float(value))


@pytest.mark.parametrize("n", [1, 16, 17, 64, 65, 200])
def test_largest_magnitude_of_what_is_not_finite(n: int, isa: str) -> None:
    for at in {0, n // 2, n - 1}:
        x = np.linspace(-1, 0.5, n, dtype=np.float32)
        for value in (np.inf, -np.inf):
            x[at] = value
            assert _native.max_abs(x, isa) == math.inf
        x[n // 3] = np.inf
        for bits in (0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF):
            x[at : at + 1] = np.uint32([bits]).view(np.float32)
            assert math.isnan(_native.max_abs(x, isa))
