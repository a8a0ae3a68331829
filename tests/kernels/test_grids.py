"""IQ1, IQ2 and IQ3, whose elements go to points of a grid: the bytes of ggml and of an oracle in NumPy.

The wheel's ggml is older than llama.cpp b11434 in one respect: it sums IQ1_M's splits in another order, and about one
block of a hundred differs. There the oracle is ours in NumPy, and digests of what b11434's library wrote (test_iq1.py).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastconv import _native
from tests.kernels import ggml, rows
from tests.kernels.grids import AS_THE_WHEEL, TYPES, WITHOUT_IMPORTANCE, blocks, by_oracle, columns, within
from tests.kernels.test_encode import assert_same_blocks
from tests.kernels.test_encode_weighted import importances


def assert_every_isa_writes(want: np.ndarray, x: np.ndarray, type: str, importance: np.ndarray | None) -> None:
    for isa in _native.isas():
        assert_same_blocks(_native.quantize(x, type, isa=isa, importance=importance), want, type)


def test_every_type_on_a_grid_is_tested() -> None:
    assert all(ggml.TYPES[name].encodes for name in TYPES)
    assert set(WITHOUT_IMPORTANCE) == {"iq2_s", "iq1_m", "iq3_s", "iq3_xxs"}
    assert len(columns()) == 9


def cases(types: list[str], kinds: list[str]) -> list[tuple[str, str]]:
    return [(type, kind) for type in types for kind in kinds if kind != "without" or type in WITHOUT_IMPORTANCE]


@pytest.mark.parametrize(("type", "importance"), cases(AS_THE_WHEEL, [*columns()]))
def test_ggml_writes_the_same_bytes(type: str, importance: str) -> None:
    weights = columns()[importance]
    for x in within(type).values():
        assert_every_isa_writes(ggml.quantize(x, type, weights), x, type, weights)


@pytest.mark.parametrize("type", AS_THE_WHEEL)
def test_ggml_writes_the_same_bytes_of_many_blocks(type: str) -> None:
    rng = np.random.default_rng(11)
    x, importance = rng.standard_normal((24, 2048)).astype(np.float32) * np.float32(0.02), rng.random(2048) ** 2
    weights = importance.astype(np.float32)
    assert_every_isa_writes(ggml.quantize(x, type, weights), x, type, weights)


@pytest.mark.parametrize(("type", "importance"), cases(ggml.IQ3, ["without", "uniform"]))
def test_ggml_writes_the_same_bytes_of_many_heavy_tailed_blocks(type: str, importance: str) -> None:
    x, weights = np.concatenate([rows.kinds()["gaussian"], rows.kinds()["heavy-tailed"]]), columns()[importance]
    assert_every_isa_writes(ggml.quantize(x, type, weights), x, type, weights)


@pytest.mark.parametrize(
    ("type", "importance", "n_columns"),
    [
        ("iq1_m", "none for some", 1536),
        ("iq1_m", "without", 1536),
        ("iq1_s", "half zero", 1536),
        *((type, kind, 512) for type in ggml.IQ3 for kind in ("without", "half zero", "none for some")),
    ],
)
def test_the_oracle_writes_the_same_bytes(type: str, importance: str, n_columns: int) -> None:
    weights = columns()[importance]
    weights = None if weights is None else weights[:n_columns].copy()
    x = np.concatenate([x[:1, :n_columns] for x in within(type).values()])
    assert_every_isa_writes(by_oracle(x, type, weights), x, type, weights)


FLOATS = st.one_of(
    st.floats(-(2.0**20), 2.0**20, width=32),
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0, 5.0, 15.0, 65504.0, 1e-8, 1e-15, 2.0**-149]),
)
WEIGHTS = st.one_of(st.floats(0, 2.0**20, width=32), st.sampled_from([0.0, 1.0, 2.0**-66]))


@pytest.mark.parametrize(("types", "n_examples"), [(ggml.IQ2, 60), (ggml.IQ3, 100)], ids=["iq2", "iq3"])
def test_any_row_in_range(types: list[str], n_examples: int) -> None:
    @settings(max_examples=n_examples, deadline=None)
    @given(
        x=hnp.arrays(np.float32, (2, 256), elements=FLOATS, fill=FLOATS),
        importance=hnp.arrays(np.float32, (256,), elements=WEIGHTS, fill=WEIGHTS),
    )
    def check(x: np.ndarray, importance: np.ndarray) -> None:
        for type in types:
            for weights in (importance, None) if type in WITHOUT_IMPORTANCE else (importance,):
                assert_every_isa_writes(blocks(x, type, weights), x, type, weights)

    check()


@pytest.mark.parametrize(
    ("type", "importance"), [*cases(ggml.IQ2, ["uniform"]), *cases(ggml.IQ3, ["without", "uniform", "huge"])]
)
def test_any_bits_give_the_same_bytes_on_every_instruction_set(type: str, importance: str) -> None:
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**32, (64, 512), dtype=np.uint32)
    bits[rng.random(bits.shape) < 0.003] |= 0x7F800000  # in about half of the super-blocks
    weights = {**columns(), "huge": importances()["huge"]}[importance]
    weights = None if weights is None else weights[:512].copy()
    x = bits.view(np.float32)
    for source in (x, np.concatenate([kind[:2, :512] for kind in rows.kinds().values()])):
        want = _native.quantize(source, type, isa=_native.isas()[-1], importance=weights)
        assert_every_isa_writes(want, source, type, weights)
    odd = ~np.isfinite(x.reshape(-1, 256)).all(axis=1)
    assert 0.2 < odd.mean() < 0.8
    if type in ggml.IQ2:
        values = _native.dequantize(_native.quantize(x, type, importance=weights), type).reshape(-1, 256)
        assert np.isnan(values[odd]).all()


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize(("n_rows", "n_blocks"), [(1, 1), (3, 1), (5, 3), (2, 9)])
def test_every_byte_is_written_and_no_other(type: str, n_rows: int, n_blocks: int, isa: str) -> None:
    n_cols = 256 * n_blocks
    x = np.resize(rows.kinds()["gaussian"], (n_rows, n_cols))
    uniform = np.resize(importances()["uniform"], n_cols)
    for importance in (None, uniform) if type in WITHOUT_IMPORTANCE else (uniform,):
        want = np.stack([_native.quantize(row[None], type, importance=importance)[0] for row in x]).ravel()
        for fill in (0x00, 0xFF):
            # No array is aligned.
            whole = np.full(want.size + 129, fill, np.uint8)
            source = np.concatenate([np.float32([9]), x.ravel()])[1:]
            weights = None if importance is None else np.concatenate([np.float32([9]), importance])[1:]
            _native.quantize_into(source, type, whole[65 : 65 + want.size], isa, importance=weights)
            assert_same_blocks(whole[65 : 65 + want.size], want, type)
            assert (whole[:65] == fill).all()
            assert (whole[65 + want.size :] == fill).all()


@pytest.mark.parametrize("type", sorted(set(TYPES) - set(WITHOUT_IMPORTANCE)))
def test_importance_is_needed(type: str) -> None:
    with pytest.raises(ValueError, match=f"type '{type}' needs an importance"):
        _native.quantize(np.zeros((1, 256), np.float32), type)


@pytest.mark.parametrize("type", TYPES)
def test_the_largest_magnitude_does_not_overflow(type: str) -> None:
    rng = np.random.default_rng(3)
    most = np.float32(ggml.TYPES[type].max_abs)
    some = rng.uniform(-1, 1, (32, 256)).astype(np.float32) * most
    lone = np.where(np.arange(256) % 32 == 0, most, most / 5)[None].astype(np.float32)
    weights = [np.ones(256), rng.random(256), rng.random(256) < 0.1]
    kinds = [None] * (type in WITHOUT_IMPORTANCE) + [each.astype(np.float32) for each in weights]
    for x in (some, np.copysign(most, some), np.full((1, 256), most), lone):
        for importance in kinds:
            assert np.isfinite(_native.dequantize(_native.quantize(x, type, importance=importance), type)).all()
