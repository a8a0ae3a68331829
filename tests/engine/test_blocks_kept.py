"""Blocks that are written without being decoded: copied, or repacked for another generation of files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fastconv import _native
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import ArrayStorage
from fastconv.engine import _native_job
from fastconv.types import TYPES
from tests.engine.tensors import job
from tests.oracle import blocks as oracle

FAMILIES = {
    "q4_0": ("q4_0", "q4_0_v1", "q4_0_v2"),
    "q4_1": ("q4_1", "q4_1_v1", "q4_1_v2"),
    "q5_0": ("q5_0", "q5_0_v1"),
    "q5_1": ("q5_1", "q5_1_v1"),
    "q8_0": ("q8_0", "q8_0_v1"),
}
PAIRS = [(a, b) for family in FAMILIES.values() for a in family for b in family if a != b]


def stored(raw: np.ndarray, type_name: str, n_cols: int) -> LazyTensor:
    """raw: (rows, row bytes) uint8."""
    return LazyTensor.stored("t", type_name, (len(raw), n_cols), ArrayStorage(raw), 0)


def run(path: Path, source: LazyTensor, *types: str, isa: str = "", **options: object) -> tuple[list[bytes], int]:
    paths = [path / str(i) for i in range(len(types))]
    files = [os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for file in paths]
    arguments = {"threads": 2, "nonfinite": "error"} | options
    native = _native.Run([_native_job(job(source, *types))], files, **arguments, isa=isa)
    try:
        assert native.wait(60)
    finally:
        for file in files:
            os.close(file)
    return [file.read_bytes() for file in paths], native.rounded_blocks()[0]


def random_levels(type_name: str, rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Blocks with any levels, and scales that are normal numbers of `dtype`: (rows, row bytes) uint8."""
    info = TYPES[type_name]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // 32, info.block_bytes), dtype=np.uint8)
    old = type_name.endswith(("_v1", "_v2")) and not type_name.startswith("q5")
    width = 4 if old else 2
    for at in range(0, width * (1 + (info.today in ("q4_1", "q5_1"))), width):
        scales = rng.uniform(-0.5, 0.5, len(blocks)).astype(dtype).astype("<f4" if old else "<f2")
        blocks[:, at : at + width] = scales.view(np.uint8).reshape(-1, width)
    return blocks.reshape(shape[0], -1)


def test_the_families() -> None:
    found = {name: tuple(other for other in TYPES if TYPES[other].today == name) for name in FAMILIES}
    assert {name: set(types) for name, types in found.items()} == {k: set(v) for k, v in FAMILIES.items()}
    grouped = {other for types in FAMILIES.values() for other in types}
    assert all(info.today == name for name, info in TYPES.items() if name not in grouped)


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_levels_and_exact_scales_survive(tmp_path: Path, isa: str, old: str, new: str) -> None:
    raw = random_levels(old, np.random.default_rng(1), (6, 672), "<f2")
    [written], rounded = run(tmp_path, stored(raw, old, 672), new, isa=isa, tile_bytes=4096)
    assert rounded == 0
    found = np.frombuffer(written, np.uint8).reshape(6, -1)
    np.testing.assert_array_equal(oracle.decode(found, new), oracle.decode(raw, old))
    [back], _ = run(tmp_path, stored(found, new, 672), old, isa=isa)
    assert back == raw.tobytes()


@pytest.mark.parametrize("old", ["q4_0_v1", "q4_0_v2", "q4_1_v1", "q4_1_v2", "q8_0_v1"])
def test_other_scales_are_rounded_and_counted(tmp_path: Path, isa: str, old: str) -> None:
    raw = random_levels(old, np.random.default_rng(2), (4, 320), "<f4")
    exact = random_levels(old, np.random.default_rng(3), (1, 320), "<f2")
    raw[2] = exact[0]
    new = TYPES[old].today
    [written], rounded = run(tmp_path, stored(raw, old, 320), new, isa=isa)
    assert rounded == 30
    size, width = TYPES[old].block_bytes, 8 if new == "q4_1" else 4
    blocks = raw.reshape(-1, size).copy()
    scales = blocks[:, :width].copy().view("<f4").astype("<f2")
    blocks[:, :width] = scales.astype("<f4").view(np.uint8)
    found = np.frombuffer(written, np.uint8).reshape(4, -1)
    np.testing.assert_array_equal(oracle.decode(found, new), oracle.decode(blocks.reshape(4, -1), old))


def test_a_scale_beyond_f16_is_encoded_anew(tmp_path: Path, isa: str) -> None:
    raw = random_levels("q8_0_v1", np.random.default_rng(4), (1, 64), "<f2").reshape(2, 36)
    raw[1, :4] = np.frombuffer(np.float32(1e6).tobytes(), np.uint8)
    raw[1, 4:] = np.arange(32) % 3
    [written], rounded = run(tmp_path, stored(raw.reshape(1, -1), "q8_0_v1", 64), "q8_0", isa=isa)
    assert rounded == 1
    assert written[34:] == oracle.encode(oracle.decode(raw[1:], "q8_0_v1"), "q8_0").tobytes()


def test_rows_in_another_order_and_joined_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    left, right = (random_levels("q5_0_v1", rng, (8, 96), "<f2") for _ in range(2))
    order = rng.permutation(8)
    joined = LazyTensor.joined("t", [stored(left, "q5_0_v1", 96), stored(right, "q5_0_v1", 96)], 1).with_rows(order)
    want = oracle.decode(np.hstack([left, right])[order], "q5_0_v1")
    [repacked, copied, floats], _ = run(tmp_path, joined, "q5_0", "q5_0_v1", "f32", tile_bytes=2048)
    np.testing.assert_array_equal(oracle.decode(np.frombuffer(repacked, np.uint8).reshape(8, -1), "q5_0"), want)
    assert copied == np.hstack([left, right])[order].tobytes()
    np.testing.assert_array_equal(np.frombuffer(floats, np.float32).reshape(8, -1), want)


def test_values_are_checked_where_blocks_are_repacked(tmp_path: Path) -> None:
    raw = random_levels("q4_0_v2", np.random.default_rng(6), (2, 64), "<f2")
    raw.reshape(-1, 20)[3, :4] = np.frombuffer(np.float32(np.inf).tobytes(), np.uint8)
    raw.reshape(-1, 20)[3, 4:] = 0x77
    source = stored(raw, "q4_0_v2", 64)
    with pytest.raises(_native.NonFiniteValue) as caught:
        run(tmp_path, source, "q4_0")
    assert caught.value.args[:3] == (0, 1, 32)
    [kept], _ = run(tmp_path, source, "q4_0", nonfinite="keep")
    assert kept[:54] == run(tmp_path, stored(raw[:, :40], "q4_0_v2", 64), "q4_0", nonfinite="keep")[0][0][:54]
    [clamped], _ = run(tmp_path, source, "q4_0", nonfinite="clamp")
    assert np.isfinite(oracle.decode(np.frombuffer(clamped, np.uint8).reshape(2, -1), "q4_0")).all()


@pytest.mark.parametrize("type_name", ["i32", "i64", "u8", "q4_2", "f64", "iq1_m", "tq1_0"])
@pytest.mark.parametrize("nonfinite", ["error", "keep", "clamp"])
def test_copies_need_neither_decoder_nor_encoder(tmp_path: Path, type_name: str, nonfinite: str) -> None:
    info = TYPES[type_name]
    n_cols = 3 * max(info.block_size, 8)
    raw = np.random.default_rng(7).integers(0, 60, (5, n_cols // info.block_size * info.block_bytes), dtype=np.uint8)
    order = np.array([3, 1, 1, 4])
    for source, want in (
        (stored(raw, type_name, n_cols), raw),
        (stored(raw, type_name, n_cols).with_rows(order), raw[order]),
    ):
        written, _ = run(tmp_path, source, type_name, type_name, nonfinite=nonfinite)
        assert written == [want.tobytes()] * 2
        [single], _ = run(tmp_path, source, type_name, nonfinite=nonfinite)
        assert single == want.tobytes()
