"""IQ2 and IQ1, whose elements go to points of a grid by eights: the bytes of ggml and of an oracle in NumPy.

The wheel's ggml is older than llama.cpp b11434 in one respect: it sums IQ1_M's splits in another order, and about one
block of a hundred differs. There the oracle is ours in NumPy, and digests of what b11434's library wrote.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastconv import _native
from tests.kernels import ggml, rows
from tests.kernels.test_encode import assert_same_blocks
from tests.kernels.test_encode_weighted import importances
from tests.oracle import iq1

TYPES = ggml.TYPES
AS_THE_WHEEL = [name for name in ggml.IQ2 if name not in ggml.OF_ANOTHER_RELEASE]
WITHOUT_IMPORTANCE = ["iq2_s", "iq1_m"]
# Where weights or errors are infinite ggml aborts.
BEYOND = {"cubes overflow", "squares overflow", "near f32 overflow", "any finite bits"}


@functools.cache
def within() -> dict[str, np.ndarray]:
    """Kinds of rows, (3, 1536) each."""
    kinds = {name: x[:3] for name, x in rows.kinds().items() if name not in BEYOND}
    rng = np.random.default_rng(20231018)
    # The sign of an element that counts for nothing gives way, and its level is far below what ggml's rounding is for.
    sunk = np.abs(rng.standard_normal((3, 1536))) * 1e-6
    sunk[:, 5::8] = -1e6
    return kinds | {"far below": sunk.astype(np.float32)}


@functools.cache
def columns() -> dict[str, np.ndarray]:
    names = ("even", "uniform", "mean squares", "half zero", "one in each block", "zero", "tiny")
    kinds = {name: importances()[name] for name in names}
    return kinds | {"none for some": np.where(np.arange(1536) % 8 == 5, 0, kinds["uniform"]).astype(np.float32)}


def test_every_type_on_a_grid_is_tested() -> None:
    assert {name for name in ggml.IQ2 if TYPES[name].encodes} == set(ggml.IQ2)
    assert {name for name in ggml.IQ2 if TYPES[name].needs_importance} == set(ggml.IQ2) - set(WITHOUT_IMPORTANCE)


@pytest.mark.parametrize("type", AS_THE_WHEEL)
@pytest.mark.parametrize("importance", columns())
def test_ggml_writes_the_same_bytes(type: str, importance: str) -> None:
    for x in within().values():
        want = ggml.quantize(x, type, columns()[importance])
        for isa in _native.isas():
            assert_same_blocks(_native.quantize(x, type, isa=isa, importance=columns()[importance]), want, type)


def test_ggml_writes_the_same_bytes_without_importance() -> None:
    for x in within().values():
        want = ggml.quantize(x, "iq2_s")
        for isa in _native.isas():
            assert_same_blocks(_native.quantize(x, "iq2_s", isa=isa), want, "iq2_s")


@pytest.mark.parametrize("type", AS_THE_WHEEL)
def test_ggml_writes_the_same_bytes_of_many_blocks(type: str) -> None:
    rng = np.random.default_rng(11)
    x, importance = rng.standard_normal((24, 2048)).astype(np.float32) * np.float32(0.02), rng.random(2048) ** 2
    want = ggml.quantize(x, type, importance.astype(np.float32))
    for isa in _native.isas():
        assert_same_blocks(_native.quantize(x, type, isa=isa, importance=importance.astype(np.float32)), want, type)


@np.errstate(all="ignore")
def by_oracle(x: np.ndarray, type: str, importance: np.ndarray | None) -> np.ndarray:
    each = None if importance is None else np.tile(importance, (len(x), 1)).reshape(-1, 256)
    blocks = iq1.iq1_m(x.reshape(-1, 256), each) if type == "iq1_m" else iq1.iq1_s(x.reshape(-1, 256), each)
    return blocks.reshape(len(x), -1)


@pytest.mark.parametrize(("type", "importance"), [("iq1_m", "none for some"), ("iq1_m", None), ("iq1_s", "half zero")])
def test_the_oracle_writes_the_same_bytes(type: str, importance: str | None) -> None:
    weights = None if importance is None else columns()[importance]
    for x in within().values():
        want = by_oracle(x[:1], type, weights)
        for isa in _native.isas():
            assert_same_blocks(_native.quantize(x[:1], type, isa=isa, importance=weights), want, type)


# Few distinct values: many splits are equal or a rounding apart, and one that is clearly the best is rare.
@pytest.mark.parametrize("type", ["iq1_s", "iq1_m"])
@pytest.mark.parametrize("largest", [1, 3, 30])
def test_iq1_where_splits_are_nearly_equal(type: str, largest: int) -> None:
    rng = np.random.default_rng(largest)
    x = rng.integers(-largest, largest + 1, (4, 512)).astype(np.float32)
    x[::2] *= rng.standard_normal((2, 1)).astype(np.float32)
    for importance in (np.ones(512), rng.integers(0, 3, 512), rng.random(512)):
        weights = importance.astype(np.float32)
        want = by_oracle(x, type, weights) if type == "iq1_m" else ggml.quantize(x, type, weights)
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
    None: "0b19d575f7c5b4c871b3e08b13f6140c5110f8d39430d93fa2000fb1dad0c658",
    "uniform": "70192379d158ab226cbabe48973a14ed1029236ad4ee8769f8b6b65b58052543",
    "half zero": "045a5b60b41910e8f438b4d2c16ac5e554ab2d474c9e8a3237185f462043b0ac",
    "mean squares": "4702f2677fbaccc80c7b534be9e4477f4e2abc20c78bea858f58c4c7f4211edf",
}


@pytest.mark.parametrize("importance", RECORDED)
def test_iq1_m_as_recorded(importance: str | None, isa: str) -> None:
    weights = None if importance is None else columns()[importance]
    digest = hashlib.sha256()
    for x in within().values():
        digest.update(_native.quantize(x, "iq1_m", isa=isa, importance=weights))
    assert digest.hexdigest() == RECORDED[importance]


FLOATS = st.one_of(
    st.floats(-(2.0**20), 2.0**20, width=32),
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0, 5.0, 65504.0, 1e-8, 1e-15, 2.0**-149]),
)
WEIGHTS = st.one_of(st.floats(0, 2.0**20, width=32), st.sampled_from([0.0, 1.0, 2.0**-66]))


@settings(max_examples=60, deadline=None)
@given(
    x=hnp.arrays(np.float32, (2, 256), elements=FLOATS, fill=FLOATS),
    importance=hnp.arrays(np.float32, (256,), elements=WEIGHTS, fill=WEIGHTS),
)
def test_any_row_in_range(x: np.ndarray, importance: np.ndarray) -> None:
    for type in ggml.IQ2:
        for weights in (importance, None) if type in WITHOUT_IMPORTANCE else (importance,):
            want = by_oracle(x, type, weights) if type == "iq1_m" else ggml.quantize(x, type, weights)
            for isa in _native.isas():
                assert_same_blocks(_native.quantize(x, type, isa=isa, importance=weights), want, type)


@pytest.mark.parametrize("type", ggml.IQ2)
def test_any_bits_give_the_same_bytes_on_every_instruction_set(type: str) -> None:
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**32, (64, 512), dtype=np.uint32)
    bits[rng.random(bits.shape) < 0.003] |= 0x7F800000  # in about half of the super-blocks
    x, importance = bits.view(np.float32), rng.random(512).astype(np.float32)
    for source in (x, np.concatenate([kind[:2, :512] for kind in rows.kinds().values()])):
        want = _native.quantize(source, type, isa=_native.isas()[-1], importance=importance)
        for isa in _native.isas():
            assert_same_blocks(_native.quantize(source, type, isa=isa, importance=importance), want, type)
    odd = ~np.isfinite(x.reshape(-1, 256)).all(axis=1)
    assert 0.2 < odd.mean() < 0.8
    values = _native.dequantize(_native.quantize(x, type, importance=importance), type).reshape(-1, 256)
    assert np.isnan(values[odd]).all()


@pytest.mark.parametrize("type", ggml.IQ2)
@pytest.mark.parametrize(("n_rows", "n_blocks"), [(1, 1), (3, 1), (5, 3)])
def test_every_byte_is_written_and_no_other(type: str, n_rows: int, n_blocks: int, isa: str) -> None:
    n_cols = 256 * n_blocks
    x = np.resize(rows.kinds()["gaussian"], (n_rows, n_cols))
    importance = np.resize(columns()["uniform"], n_cols)
    want = np.stack([_native.quantize(row[None], type, importance=importance)[0] for row in x]).ravel()
    for fill in (0x00, 0xFF):
        # No array is aligned.
        whole = np.full(want.size + 129, fill, np.uint8)
        source = np.concatenate([np.float32([9]), x.ravel()])[1:]
        weights = np.concatenate([np.float32([9]), importance])[1:]
        _native.quantize_into(source, type, whole[65 : 65 + want.size], isa, importance=weights)
        assert_same_blocks(whole[65 : 65 + want.size], want, type)
        assert (whole[:65] == fill).all()
        assert (whole[65 + want.size :] == fill).all()


@pytest.mark.parametrize("type", sorted(set(ggml.IQ2) - set(WITHOUT_IMPORTANCE)))
def test_importance_is_needed(type: str) -> None:
    with pytest.raises(ValueError, match=f"type '{type}' needs an importance"):
        _native.quantize(np.zeros((1, 256), np.float32), type)


@pytest.mark.parametrize("type", ggml.IQ2)
def test_the_largest_magnitude_does_not_overflow(type: str) -> None:
    rng = np.random.default_rng(3)
    most = np.float32(TYPES[type].max_abs)
    some = rng.uniform(-1, 1, (32, 256)).astype(np.float32) * most
    signs = np.where(rng.random((32, 256)) < 0.5, -most, most)
    lone = np.where(np.arange(256) % 32 == 0, most, most / 5)[None].astype(np.float32)
    for x in (some, signs, np.full((1, 256), most), lone):
        for importance in (np.ones(256, np.float32), rng.random(256).astype(np.float32)):
            stored = _native.quantize(x, type, importance=importance)
            assert np.isfinite(_native.dequantize(stored, type)).all()
