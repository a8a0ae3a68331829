"""Halves encoded as they are stored: the bytes of ggml and of the way through f32, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastconv import _native
from tests.kernels import ggml, rows
from tests.kernels.test_encode import assert_same_blocks

TYPES = ggml.TYPES
HALVES = ["f16", "bf16"]
PAIRS = [(source, target) for source, target in _native.recodes() if source in HALVES]


def recode(stored: np.ndarray, source: str, target: str, isa: str) -> np.ndarray:
    """stored: uint16 of any shape, a multiple of 32 of them."""
    out = np.empty(stored.size // 32 * TYPES[target].block_bytes, np.uint8)
    rounded, largest = _native.recode_into(stored.reshape(-1).view(np.uint8), source, target, out, isa)
    expected = np.abs(values(stored, source)).max()
    assert rounded == 0
    assert largest == expected or (np.isnan(largest) and np.isnan(expected))
    return out


def values(stored: np.ndarray, type: str) -> np.ndarray:
    """stored: uint16 (n,). float32 (1, n), by NumPy."""
    wide = stored.view(np.float16).astype(np.float32) if type == "f16" else (stored.astype(np.uint32) << 16)
    return wide.view(np.float32).reshape(1, -1)


def halves(x: np.ndarray, type: str) -> np.ndarray:
    return _native.quantize(x, type).view(np.uint16).ravel()


def test_the_pairs() -> None:
    assert [(half, block) for block in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0") for half in HALVES] == PAIRS
    others = [pair for pair in _native.recodes() if pair not in PAIRS]
    assert all(TYPES[a].today == TYPES[b].today and a != b for a, b in others)
    assert len(set(_native.recodes())) == len(_native.recodes())


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_ggml_writes_the_same_bytes(source: str, target: str, isa: str) -> None:
    for x in rows.kinds().values():
        stored = halves(x, source)
        # What f16 cannot hold has become infinite.
        finite = np.isfinite(values(stored, source)).reshape(-1, 32).all(axis=1)
        stored = stored[finite.repeat(32)]
        if not stored.size:
            continue
        y = values(stored, source)
        assert_same_blocks(recode(stored, source, target, isa), ggml.quantize(y, target), target)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_nan_and_infinity_too_give_the_bytes_of_the_way_through_f32(source: str, target: str, isa: str) -> None:
    rng = np.random.default_rng(7)
    infinity = 0x7C00 if source == "f16" else 0x7F80
    for share, with_nan in ((0.001, True), (0.05, True), (0.01, False)):
        stored = rng.integers(0, 2**16, 64 * 512, dtype=np.uint16)
        if with_nan:
            stored[rng.random(stored.shape) < share] |= infinity
        else:
            stored[stored & 0x7FFF > infinity] = 1
        stored[rng.random(stored.shape) < share] = infinity
        stored[rng.random(stored.shape) < share] = infinity | 0x8000
        y = _native.dequantize(stored.view(np.uint8).reshape(1, -1), source)
        assert_same_blocks(recode(stored, source, target, isa), _native.quantize(y, target, isa=isa), target)


@pytest.mark.parametrize("source", HALVES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_finite_block(source: str, data: st.DataObject) -> None:
    infinity = 0x7C00 if source == "f16" else 0x7F80
    magnitudes = st.integers(0, infinity - 1) | st.sampled_from([0, 1, infinity - 1, 0x3C00, 0x3F80])
    bits = st.tuples(magnitudes, st.sampled_from([0, 0x8000])).map(sum)
    stored = data.draw(hnp.arrays(np.uint16, 32 * 17, elements=bits, fill=bits))
    for target in (block for half, block in PAIRS if half == source):
        want = ggml.quantize(values(stored, source), target)
        for isa in _native.isas():
            assert_same_blocks(recode(stored, source, target, isa), want, target)


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("n_blocks", [1, 2, 15, 16, 17, 31, 32, 33])
def test_every_byte_is_written_and_no_other(source: str, target: str, n_blocks: int, isa: str) -> None:
    stored = halves(rows.kinds()["gaussian"], source)[: n_blocks * 32]
    want = ggml.quantize(values(stored, source), target).ravel()
    for fill in (0x00, 0xFF):
        # Neither side is aligned.
        whole = np.full(want.size + 129, fill, np.uint8)
        elements = np.concatenate([np.uint8([9]), stored.view(np.uint8)])[1:]
        out = whole[65 : 65 + want.size]
        _native.recode_into(elements, source, target, out, isa)
        assert_same_blocks(out, want, target)
        assert (whole[:65] == fill).all()
        assert (whole[65 + want.size :] == fill).all()


@pytest.mark.parametrize("type", ["f32", *HALVES])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 31, 32, 33, 63, 127, 128, 129, 1000])
def test_the_largest_magnitude_of_what_is_stored(type: str, n: int, isa: str) -> None:
    for place in {*range(0, n, 7), n - 1} - {-1}:
        for special in (5.0, -5.0, np.inf, -np.inf, np.nan, -np.nan):
            x = np.clip(np.random.default_rng(n).standard_normal((1, n)), -4, 4).astype(np.float32)
            x[0, place] = special
            stored = np.concatenate([np.uint8([9]), _native.quantize(x, type).ravel()])[1:]
            found = _native.stored_max(stored, type, isa)
            assert found == abs(special) or (np.isnan(found) and np.isnan(special))
    zeros = np.full((1, n), -0.0, np.float32)
    assert _native.stored_max(_native.quantize(zeros, type).ravel(), type, isa) == 0


def test_what_must_be_decoded() -> None:
    nothing = np.empty(0, np.uint8)
    with pytest.raises(ValueError, match="type 'q8_0' must be decoded to be compared"):
        _native.stored_max(nothing, "q8_0")
    with pytest.raises(ValueError, match="'f32' is not recoded to 'q4_0'"):
        _native.recode_into(nothing, "f32", "q4_0", nothing)
    with pytest.raises(ValueError, match="found 48 elements, expected a multiple of 32"):
        _native.recode_into(np.empty(96, np.uint8), "f16", "q4_0", np.empty(18, np.uint8))
    with pytest.raises(ValueError, match="out: wrong size"):
        _native.recode_into(np.empty(64, np.uint8), "f16", "q4_0", np.empty(17, np.uint8))
