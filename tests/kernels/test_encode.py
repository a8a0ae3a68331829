"""Encoders write the same bytes as ggml's, as an oracle in NumPy, and as one another, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastconv import _native
from tests.kernels import ggml, rows
from tests.oracle import blocks as oracle

TYPES = ggml.TYPES
STORED_BY_GGML = ["f16", "bf16", *ggml.BLOCKS]
OLD = ["q4_0_v1", "q4_1_v1", "q5_0_v1", "q5_1_v1", "q8_0_v1", "q4_0_v2", "q4_1_v2"]
# Those with grids have rows of their own in grids.py.
ENCODED = [name for name, info in TYPES.items() if info.encodes and name not in (*ggml.IQ3, *ggml.IQ2)]


def assert_same_blocks(got: np.ndarray, want: np.ndarray, type: str) -> None:
    size = TYPES[type].block_bytes
    differ = np.flatnonzero((got.reshape(-1, size) != want.reshape(-1, size)).any(axis=1))
    if len(differ):
        at = differ[0]
        found, expected = got.reshape(-1, size)[at], want.reshape(-1, size)[at]
        pytest.fail(
            f"{type}: {len(differ)} blocks differ, first {at}: {found.tobytes().hex()}, not {expected.tobytes().hex()}"
        )


def test_every_encoded_type_is_tested() -> None:
    assert set(ENCODED) == {"f32", *STORED_BY_GGML, *OLD} == set(oracle.ENCODERS)


@pytest.mark.parametrize("type", STORED_BY_GGML)
def test_ggml_writes_the_same_bytes(type: str, isa: str) -> None:
    for x in rows.kinds().values():
        assert_same_blocks(_native.quantize(x, type, isa=isa), ggml.quantize(x, type), type)


@pytest.mark.parametrize("type", ENCODED)
@pytest.mark.parametrize("kind", rows.kinds())
def test_the_oracle_writes_the_same_bytes(type: str, kind: str) -> None:
    x = rows.kinds()[kind]
    want = oracle.encode(x, type)
    for isa in _native.isas():
        assert_same_blocks(_native.quantize(x, type, isa=isa), want, type)


@pytest.mark.parametrize("type", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "tq2_0", "tq1_0", "f16", "bf16"])
def test_gguf_writes_the_same_bytes(type: str, isa: str) -> None:
    gguf = pytest.importorskip("gguf")
    for kind in ("gaussian", "heavy-tailed", "bf16", "sparse", "zero"):
        x = rows.kinds()[kind]
        want = gguf.quants.quantize(x, gguf.GGMLQuantizationType[type.upper()]).view(np.uint8)
        assert_same_blocks(_native.quantize(x, type, isa=isa), want, type)


FLOATS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 8.0, -8.0, 127.0, 65504.0, 65520.0, 2.0**-24, 2.0**-149]),
)


@settings(max_examples=150, deadline=None)
@given(x=hnp.arrays(np.float32, (1, 256), elements=FLOATS, fill=FLOATS))
def test_any_finite_block(x: np.ndarray) -> None:
    for type in STORED_BY_GGML:
        want = ggml.quantize(x, type)
        for isa in _native.isas():
            assert_same_blocks(_native.quantize(x, type, isa=isa), want, type)
    for type in OLD:
        want = oracle.encode(x, type)
        for isa in _native.isas():
            assert_same_blocks(_native.quantize(x, type, isa=isa), want, type)


@pytest.mark.parametrize("type", ENCODED)
def test_nan_and_infinity_give_the_same_bytes_on_every_instruction_set(type: str) -> None:
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**32, (64, 512), dtype=np.uint32)
    bits[rng.random(bits.shape) < 0.1] |= 0x7F800000
    x = bits.view(np.float32)
    want = _native.quantize(x, type, isa="baseline" if "baseline" in _native.isas() else "")
    for isa in _native.isas():
        assert_same_blocks(_native.quantize(x, type, isa=isa), want, type)


@pytest.mark.parametrize("type", ENCODED)
@pytest.mark.parametrize("n_blocks", [1, 2, 3, 15, 16, 17, 31, 33])
def test_every_byte_is_written_and_no_other(type: str, n_blocks: int, isa: str) -> None:
    info = TYPES[type]
    n = n_blocks * info.block_size
    x = np.resize(rows.kinds()["gaussian"], n + 1)[1:].copy()
    want = oracle.encode(x[None], type)[0]
    for fill in (0x00, 0xFF):
        # Neither side is aligned.
        whole = np.full(want.size + 129, fill, np.uint8)
        source = np.concatenate([np.float32([9]), x])[1:]
        out = whole[65 : 65 + want.size]
        _native.quantize_into(source, type, out, isa)
        assert_same_blocks(out, want, type)
        assert (whole[:65] == fill).all()
        assert (whole[65 + want.size :] == fill).all()


def near_thresholds(rng: np.random.Generator, n_blocks: int) -> np.ndarray:
    """Elements that one of the 19 tries of Q6_K scales to a half, give or take two units in the last place."""
    first = rng.standard_normal((n_blocks * 16, 1)).astype(np.float32)
    first[::2] = (first[::2].view(np.uint32) & 0xFFFF0000).view(np.float32)
    tries = np.float32(32) + np.float32(0.1) * rng.integers(-9, 10, (len(first), 16)).astype(np.float32)
    ratios = np.minimum((rng.integers(0, 33, tries.shape) + 0.5) / tries.astype(np.float64), 1)
    x = (ratios * first * rng.choice([-1, 1], tries.shape)).astype(np.float32)
    x = (x.view(np.int32) + rng.integers(-2, 3, x.shape, dtype=np.int32)).view(np.float32)
    x[np.arange(len(x)), rng.integers(0, 16, len(x))] = first[:, 0]
    return x.reshape(n_blocks, 256)


# Scales where the cubes and the sums of a sub-block underflow, are denormal, ordinary, about to overflow, infinite.
@pytest.mark.parametrize("exponent", [-48, -46, -44, -42, -40, 0, 38, 39, 40, 41, 42, 43, 59, 60, 61, 62])
def test_q6_k_at_the_thresholds_of_its_tries(exponent: int, isa: str) -> None:
    x = near_thresholds(np.random.default_rng(exponent + 100), 400) * np.float32(2.0**exponent)
    assert_same_blocks(_native.quantize(x, "q6_k", isa=isa), ggml.quantize(x, "q6_k"), "q6_k")


# Few distinct values: the sums of many tries are equal or a rounding apart.
@pytest.mark.parametrize("largest", [1, 2, 3, 5, 16, 31, 32, 33, 63, 65, 320, 329])
def test_q6_k_where_tries_are_nearly_equal(largest: int, isa: str) -> None:
    rng = np.random.default_rng(largest)
    x = rng.integers(-largest, largest + 1, (400, 256)) * rng.standard_normal((400, 1))
    x = x.astype(np.float32)
    assert_same_blocks(_native.quantize(x, "q6_k", isa=isa), ggml.quantize(x, "q6_k"), "q6_k")


def at_bounds(rng: np.random.Generator, n_blocks: int) -> np.ndarray:
    """Elements that one of the sixteen tries of IQ4 scales to a bound of two levels, give or take two last places."""
    values = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
    bounds = (values[1:] + values[:-1]) / 2
    first = rng.standard_normal((n_blocks, 1)).astype(np.float32)
    first[::2] = (first[::2].view(np.uint32) & 0xFFFF0000).view(np.float32)
    tries = rng.choice([127, *range(-134, -119)], (n_blocks, 32))
    x = (np.clip(rng.choice(bounds, tries.shape) / tries, -1, 1) * first).astype(np.float32)
    x = (x.view(np.int32) + rng.integers(-2, 3, x.shape, dtype=np.int32)).view(np.float32)
    x[np.arange(n_blocks), rng.integers(0, 32, n_blocks)] = first[:, 0]
    return x.reshape(-1, 256)


# As for Q6_K; squares and cubes of the least scale that is looked at underflow.
@pytest.mark.parametrize("type", ["iq4_nl", "iq4_xs"])
@pytest.mark.parametrize("exponent", [-48, -46, -44, -40, 0, 38, 39, 40, 41, 42, 43, 59, 60, 61, 62])
def test_iq4_at_the_bounds_of_its_tries(type: str, exponent: int, isa: str) -> None:
    x = at_bounds(np.random.default_rng(exponent + 100), 3200) * np.float32(2.0**exponent)
    assert_same_blocks(_native.quantize(x, type, isa=isa), ggml.quantize(x, type), type)


@pytest.mark.parametrize("type", ["iq4_nl", "iq4_xs"])
@pytest.mark.parametrize("largest", [1, 2, 3, 5, 16, 63, 127, 134, 1270])
def test_iq4_where_tries_are_nearly_equal(type: str, largest: int, isa: str) -> None:
    rng = np.random.default_rng(largest)
    x = (rng.integers(-largest, largest + 1, (400, 256)) * rng.standard_normal((400, 1))).astype(np.float32)
    assert_same_blocks(_native.quantize(x, type, isa=isa), ggml.quantize(x, type), type)


# One block through all eras; from quantizers compiled from the llama.cpp of each time.
ERAS = {
    "q4_0_v1": "0000003e 6a097b4f888888886c88888888888888",
    "q4_0_v2": "0000003e ca7689808b888f858888888888888888",
    "q4_0": "0030 ca7689808b888f858888888888888888",
    "q5_0_v1": "002c55fffdff c402f59f00000000d800000000000000",
    "q5_0": "002c55fffdff 84dc0200050f0f090000000000000000",
}


@pytest.mark.parametrize("type", ERAS)
def test_one_block_through_all_eras(type: str, isa: str) -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :8] = [0.25, -0.25, 0.125, -1, 0.3125, -0.0625, 0.9375, -0.4375]
    x[0, 16:18] = [0.5, -0.1875]
    want = bytes.fromhex(ERAS[type])
    assert _native.quantize(x, type, isa=isa).tobytes() == want
    assert oracle.encode(x, type).tobytes() == want


def test_threads_do_not_change_bytes() -> None:
    x = np.resize(rows.kinds()["gaussian"], (64, 1536)).astype(np.float32)
    for type in ENCODED:
        one = _native.quantize(x, type, threads=1)
        for threads in (2, 3, 7):
            assert_same_blocks(_native.quantize(x, type, threads=threads), one, type)


@pytest.mark.parametrize(
    ("x", "type", "message"),
    [
        (np.zeros((1, 32), np.float32), "q9_0", "type 'q9_0' is unknown"),
        (np.zeros((1, 32), np.float32), "i32", "type 'i32' cannot be encoded"),
        (np.zeros((1, 48), np.float32), "q4_0", "found 48 columns, expected a multiple of 32"),
        (np.zeros((2, 128), np.float32), "q6_k", "found 128 columns, expected a multiple of 256"),
        (np.zeros(32, np.float32), "q4_0", "found 1 dimensions, expected 2"),
    ],
)
def test_what_cannot_be_encoded(x: np.ndarray, type: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.quantize(x, type)


@pytest.mark.parametrize("x", [np.zeros((1, 32)), np.zeros((32, 64), np.float32)[:, ::2]])
def test_arrays_are_never_cast_or_copied(x: np.ndarray) -> None:
    with pytest.raises(TypeError):
        _native.quantize(x, "q4_0")
