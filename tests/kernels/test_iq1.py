"""What only IQ1 has: splits of a block that are compared by sums, in an order that decides; digests of b11434."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fastconv import _native
from tests.kernels import ggml
from tests.kernels.grids import blocks, columns, within
from tests.kernels.test_encode import assert_same_blocks


# Few distinct values: many splits are equal or a rounding apart, and one that is clearly the best is rare.
@pytest.mark.parametrize("type", ["iq1_s", "iq1_m"])
@pytest.mark.parametrize("largest", [1, 3, 30])
def test_iq1_where_splits_are_nearly_equal(type: str, largest: int) -> None:
    rng = np.random.default_rng(largest)
    x = rng.integers(-largest, largest + 1, (4, 512)).astype(np.float32)
    x[::2] *= rng.standard_normal((2, 1)).astype(np.float32)
    for importance in (np.ones(512), rng.integers(0, 3, 512), rng.random(512)):
        weights = importance.astype(np.float32)
        want = blocks(x, type, weights)
        for isa in _native.isas():
            assert_same_blocks(_native.quantize(x, type, isa=isa, importance=weights), want, type)


# Where what is compared is denormal, underflows or overflows in some splits and not in others.
@pytest.mark.parametrize("exponents", [(-20, -20), (-20, -60), (-10, -110), (0, -60), (0, -100), (15, -120), (20, 40)])
def test_iq1_s_where_products_are_tiny_or_huge(exponents: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    of_x, of_weight = exponents
    x = np.ldexp(rng.standard_normal((8, 512)), of_x + rng.integers(-3, 4, (8, 512))).astype(np.float32)
    weights = np.ldexp(rng.random(512), of_weight + rng.integers(-20, 21, 512)).astype(np.float32)
    want = ggml.quantize(x, "iq1_s", weights)
    for isa in _native.isas():
        assert_same_blocks(_native.quantize(x, "iq1_s", isa=isa, importance=weights), want, "iq1_s")


# sha256 of the blocks of all kinds of rows, one after the other. To make them again: build libggml-base of llama.cpp
# b11434 without contraction (its default on x86-64), and call its ggml_quantize_chunk as tests/kernels/ggml.py does.
RECORDED = {
    "without": "0b19d575f7c5b4c871b3e08b13f6140c5110f8d39430d93fa2000fb1dad0c658",
    "uniform": "70192379d158ab226cbabe48973a14ed1029236ad4ee8769f8b6b65b58052543",
    "half zero": "045a5b60b41910e8f438b4d2c16ac5e554ab2d474c9e8a3237185f462043b0ac",
    "mean squares": "4702f2677fbaccc80c7b534be9e4477f4e2abc20c78bea858f58c4c7f4211edf",
}


@pytest.mark.parametrize("importance", RECORDED)
def test_iq1_m_as_recorded(importance: str, isa: str) -> None:
    weights = columns()[importance]
    digest = hashlib.sha256()
    for x in within("iq1_m").values():
        digest.update(_native.quantize(x, "iq1_m", isa=isa, importance=weights))
    assert digest.hexdigest() == RECORDED[importance]
