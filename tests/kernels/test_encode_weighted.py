"""With importance, encoders write the same bytes as ggml's and as an oracle in NumPy, on every instruction set."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastconv import _native
from tests.kernels import ggml, rows
from tests.kernels.test_encode import FLOATS, TYPES, assert_same_blocks
from tests.oracle import blocks as oracle

WEIGHTED = ["q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "iq4_xs"]


@functools.cache
def importances() -> dict[str, np.ndarray]:
    """Each kind is (1536,) float32, finite, none negative."""
    rng = np.random.default_rng(20240111)
    uniform = rng.random(rows.SHAPE[1])
    made = {
        "even": np.ones_like(uniform),
        "uniform": uniform,
        "mean squares": rng.standard_cauchy(uniform.shape) ** 2,
        "half zero": np.where(rng.random(uniform.shape) < 0.5, 0, uniform),
        "one in each block": np.where(np.arange(uniform.size) % 32 == 7, uniform, 0),
        "zero": np.zeros_like(uniform),
        "tiny": uniform * 1e-38,
        "huge": uniform * 1e30,
        "magnitudes mixed": np.exp2(rng.integers(-140, 120, uniform.shape)),
    }
    return {name: importance.astype(np.float32) for name, importance in made.items()}


def assert_ggml_writes(got: np.ndarray, x: np.ndarray, type: str, importance: np.ndarray) -> None:
    """The library of the wheel lacks a guard that llama.cpp b11434 has: where that alone shows, the oracle decides."""
    size = TYPES[type].block_bytes
    want = ggml.quantize(x, type, importance)
    differ = (got.reshape(-1, size) != want.reshape(-1, size)).any(axis=1)
    if differ.any() and type in oracle.UNGUARDED_ENCODERS:
        of_wheel = oracle.encode(x, type, importance, guarded=False)
        assert_same_blocks(of_wheel.reshape(-1, size)[differ], want.reshape(-1, size)[differ], type)
        want = oracle.encode(x, type, importance)
    assert_same_blocks(got, want, type)


def test_every_weighted_type_is_tested() -> None:
    assert set(WEIGHTED) == set(oracle.WEIGHTED_ENCODERS)


@pytest.mark.parametrize("type", WEIGHTED)
@pytest.mark.parametrize("importance", importances())
def test_ggml_writes_the_same_bytes(type: str, importance: str) -> None:
    weights = importances()[importance]
    for x in rows.kinds().values():
        for isa in _native.isas():
            assert_ggml_writes(_native.quantize(x, type, isa=isa, importance=weights), x, type, weights)


@pytest.mark.parametrize("type", WEIGHTED)
@pytest.mark.parametrize("kind", rows.kinds())
def test_the_oracle_writes_the_same_bytes(type: str, kind: str) -> None:
    x, weights = rows.kinds()[kind], importances()["half zero"]
    want = oracle.encode(x, type, weights)
    for isa in _native.isas():
        assert_same_blocks(_native.quantize(x, type, isa=isa, importance=weights), want, type)


WEIGHTS = st.one_of(st.floats(0, width=32, allow_infinity=False), st.sampled_from([0.0, 1.0, 1e-20]))


@settings(max_examples=100, deadline=None)
@given(
    x=hnp.arrays(np.float32, (2, 256), elements=FLOATS, fill=FLOATS),
    importance=hnp.arrays(np.float32, (256,), elements=WEIGHTS, fill=WEIGHTS),
)
def test_any_finite_row(x: np.ndarray, importance: np.ndarray) -> None:
    for type in WEIGHTED:
        for isa in _native.isas():
            assert_ggml_writes(_native.quantize(x, type, isa=isa, importance=importance), x, type, importance)


@pytest.mark.parametrize("type", WEIGHTED)
def test_nan_and_infinity_give_the_same_bytes_on_every_instruction_set(type: str) -> None:
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**32, (64, 512), dtype=np.uint32)
    bits[rng.random(bits.shape) < 0.1] |= 0x7F800000
    x, importance = bits.view(np.float32), rng.random(512).astype(np.float32)
    want = _native.quantize(x, type, isa=_native.isas()[-1], importance=importance)
    for isa in _native.isas():
        assert_same_blocks(_native.quantize(x, type, isa=isa, importance=importance), want, type)


@pytest.mark.parametrize("type", WEIGHTED)
@pytest.mark.parametrize(("n_rows", "n_blocks"), [(1, 1), (1, 3), (3, 1), (5, 3), (2, 17), (33, 2)])
def test_every_byte_is_written_and_no_other(type: str, n_rows: int, n_blocks: int, isa: str) -> None:
    """Rows that end within a group of blocks: each starts over with the importance of its first column."""
    info = TYPES[type]
    n_cols = n_blocks * info.block_size
    x = np.resize(rows.kinds()["gaussian"], (n_rows, n_cols))
    importance = np.resize(importances()["uniform"], n_cols)
    want = oracle.encode(x, type, importance).ravel()
    for fill in (0x00, 0xFF):
        # No array is aligned.
        whole = np.full(want.size + 129, fill, np.uint8)
        source = np.concatenate([np.float32([9]), x.ravel()])[1:]
        weights = np.concatenate([np.float32([9]), importance])[1:]
        _native.quantize_into(source, type, whole[65 : 65 + want.size], isa, importance=weights)
        assert_same_blocks(whole[65 : 65 + want.size], want, type)
        assert (whole[:65] == fill).all()
        assert (whole[65 + want.size :] == fill).all()


@pytest.mark.parametrize("type", WEIGHTED)
def test_threads_do_not_change_bytes(type: str) -> None:
    x, importance = rows.kinds()["heavy-tailed"], importances()["mean squares"]
    one = _native.quantize(x, type, importance=importance)
    for threads in (2, 3, 7):
        assert_same_blocks(_native.quantize(x, type, threads=threads, importance=importance), one, type)
