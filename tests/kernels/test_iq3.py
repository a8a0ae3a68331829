"""IQ3_XXS and IQ3_S: the bytes of ggml, of an oracle in NumPy and of one another, with and without importance."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastconv import _native
from tests.kernels import ggml, rows
from tests.kernels.test_encode import TYPES, assert_same_blocks
from tests.kernels.test_encode_weighted import importances
from tests.oracle import iq3

ORACLES = {"iq3_xxs": iq3.iq3_xxs, "iq3_s": iq3.iq3_s}
# Where a sum of theirs is not finite ggml aborts.
BEYOND = {"cubes overflow", "squares overflow", "near f32 overflow", "any finite bits"}


@functools.cache
def within() -> dict[str, np.ndarray]:
    """Kinds of rows, (2, 1536) each."""
    kinds = {name: x[:2] for name, x in rows.kinds().items() if name not in BEYOND}
    rng = np.random.default_rng(20240112)
    # Signs give way where they count for nothing, on elements so far below that ggml's rounding wraps around.
    sunk = np.abs(rng.standard_normal((2, 1536))) * 1e-6
    sunk[:, 5::8] = -(10.0 ** rng.uniform(0, 6, sunk[:, 5::8].shape))
    zero_blocks = rng.standard_normal((2, 48, 32)) * (rng.random((2, 48, 1)) < 0.6)
    # The least element of eight decides by its sign alone, and ties go to the first.
    even = rng.choice([-0.5, 0.5, 1, -1, 0.0, -0.0], (2, 1536))
    made = {"sunk": sunk, "blocks of zeros": zero_blocks.reshape(2, 1536), "few values": even}
    return kinds | {name: x.astype(np.float32) for name, x in made.items()}


@functools.cache
def columns() -> dict[str, np.ndarray | None]:
    kinds = {name: values for name, values in importances().items() if values.max() < 1e15}
    none_for_some = np.where(np.arange(1536) % 8 == 5, 0, kinds["uniform"]).astype(np.float32)
    return {"without": None, **kinds, "none for some": none_for_some}


def quantize(x: np.ndarray, type: str, importance: np.ndarray | None, isa: str = "") -> np.ndarray:
    return _native.quantize(x, type, isa=isa, importance=importance)


@pytest.mark.parametrize("type", ggml.IQ3)
@pytest.mark.parametrize("importance", columns())
def test_ggml_writes_the_same_bytes(type: str, importance: str) -> None:
    weights = columns()[importance]
    for x in within().values():
        want = ggml.quantize(x, type, weights)
        for isa in _native.isas():
            assert_same_blocks(quantize(x, type, weights, isa), want, type)


@pytest.mark.parametrize("type", ggml.IQ3)
@pytest.mark.parametrize("importance", ["without", "uniform"])
def test_ggml_writes_the_same_bytes_of_many_blocks(type: str, importance: str) -> None:
    x = np.concatenate([rows.kinds()["gaussian"], rows.kinds()["heavy-tailed"]])
    want = ggml.quantize(x, type, columns()[importance])
    for isa in _native.isas():
        assert_same_blocks(quantize(x, type, columns()[importance], isa), want, type)


@pytest.mark.parametrize("type", ggml.IQ3)
@pytest.mark.parametrize("importance", ["without", "half zero", "none for some"])
@np.errstate(all="ignore")
def test_the_oracle_writes_the_same_bytes(type: str, importance: str) -> None:
    weights = columns()[importance]
    x = np.concatenate([x[:1, :512] for x in within().values()])
    each = None if weights is None else np.tile(weights[:512], (len(x), 1)).reshape(-1, 256)
    want = ORACLES[type](x.reshape(-1, 256), each).reshape(len(x), -1)
    for isa in _native.isas():
        assert_same_blocks(quantize(x, type, None if weights is None else weights[:512].copy(), isa), want, type)


FLOATS = st.one_of(
    st.floats(-(2.0**20), 2.0**20, width=32),
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0, 15.0, 65504.0, 1e-8, 1e-15, 2.0**-149]),
)
WEIGHTS = st.one_of(st.floats(0, 2.0**20, width=32), st.sampled_from([0.0, 1.0, 2.0**-66]))


@settings(max_examples=100, deadline=None)
@given(
    x=hnp.arrays(np.float32, (2, 256), elements=FLOATS, fill=FLOATS),
    importance=hnp.arrays(np.float32, (256,), elements=WEIGHTS, fill=WEIGHTS),
)
def test_any_row_in_range(x: np.ndarray, importance: np.ndarray) -> None:
    for type in ggml.IQ3:
        for weights in (None, importance):
            want = ggml.quantize(x, type, weights)
            for isa in _native.isas():
                assert_same_blocks(quantize(x, type, weights, isa), want, type)


@pytest.mark.parametrize("type", ggml.IQ3)
@pytest.mark.parametrize("importance", ["without", "uniform", "huge"])
def test_any_bits_give_the_same_bytes_on_every_instruction_set(type: str, importance: str) -> None:
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**32, (16, 512), dtype=np.uint32)
    bits[rng.random(bits.shape) < 0.003] |= 0x7F800000
    weights = {**columns(), "huge": importances()["huge"]}[importance]
    weights = None if weights is None else weights[:512].copy()
    x = np.concatenate([bits.view(np.float32), *(kind[:2, :512] for kind in rows.kinds().values())])
    want = quantize(x, type, weights, _native.isas()[-1])
    for isa in _native.isas():
        assert_same_blocks(quantize(x, type, weights, isa), want, type)


@pytest.mark.parametrize("type", ggml.IQ3)
@pytest.mark.parametrize(("n_rows", "n_blocks"), [(1, 1), (3, 1), (5, 3), (2, 9)])
def test_every_byte_is_written_and_no_other(type: str, n_rows: int, n_blocks: int, isa: str) -> None:
    n_cols = 256 * n_blocks
    x = np.resize(rows.kinds()["gaussian"], (n_rows, n_cols))
    for importance in (None, np.resize(importances()["uniform"], n_cols)):
        want = ggml.quantize(x, type, importance).ravel()
        for fill in (0x00, 0xFF):
            # No array is aligned.
            whole = np.full(want.size + 129, fill, np.uint8)
            source = np.concatenate([np.float32([9]), x.ravel()])[1:]
            weights = None if importance is None else np.concatenate([np.float32([9]), importance])[1:]
            _native.quantize_into(source, type, whole[65 : 65 + want.size], isa, importance=weights)
            assert_same_blocks(whole[65 : 65 + want.size], want, type)
            assert (whole[:65] == fill).all()
            assert (whole[65 + want.size :] == fill).all()


@pytest.mark.parametrize("type", ggml.IQ3)
def test_the_largest_magnitude_does_not_overflow(type: str) -> None:
    rng = np.random.default_rng(3)
    most = np.float32(TYPES[type].max_abs)
    some = rng.uniform(-1, 1, (32, 256)).astype(np.float32) * most
    lone = np.where(np.arange(256) % 32 == 0, most, most / 5)[None].astype(np.float32)
    for x in (some, np.copysign(most, some), np.full((1, 256), most), lone):
        for importance in (None, np.ones(256, np.float32), (rng.random(256) < 0.1).astype(np.float32)):
            assert np.isfinite(_native.dequantize(quantize(x, type, importance), type)).all()
