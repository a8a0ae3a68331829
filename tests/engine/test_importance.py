"""Importance of columns: every matrix of a tensor with its own row, whatever the tiles, threads and other outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fastconv import _native
from fastconv.checkpoint.imatrix import Importance
from fastconv.types import TYPES
from tests.engine.tensors import Disk, in_memory, job, values
from tests.kernels import ggml

WEIGHTED = [
    name
    for name, info in TYPES.items()
    if info.encodes and _native.heeds_importance(name) and name not in ggml.OF_ANOTHER_RELEASE
]


def importance_of(disk: Disk, sums: np.ndarray, counts: list[float]) -> Importance:
    """In a file, at an offset that no float would stand at."""
    return Importance(disk.put(sums, lead=3), tuple(counts))


def expected(array: np.ndarray, type_name: str, sums: np.ndarray, counts: list[float]) -> bytes:
    matrices = array.reshape(len(sums), -1, array.shape[-1])
    blocks = []
    for matrix, row, count in zip(matrices, sums, counts, strict=True):
        weights = row / np.float32(count) if count else np.ones_like(row)
        blocks.append(ggml.quantize(np.ascontiguousarray(matrix), type_name, weights).tobytes())
    return b"".join(blocks)


def random_sums(n_matrices: int, n_cols: int) -> np.ndarray:
    return (np.random.default_rng(3).random((n_matrices, n_cols)) ** 4 * 900).astype(np.float32)


@pytest.mark.parametrize("type_name", WEIGHTED)
@pytest.mark.parametrize(("n_matrices", "n_rows"), [(1, 7), (4, 3), (5, 1)])
def test_blocks_are_ggmls(disk: Disk, type_name: str, n_matrices: int, n_rows: int) -> None:
    array = values((n_matrices * n_rows, 512)) * np.float32(0.02)
    sums, counts = random_sums(n_matrices, 512), [float(3 + i) for i in range(n_matrices)]
    whole = replace(job(disk.put(array), type_name), importance=importance_of(disk, sums, counts))
    [written] = disk.run([whole])
    assert written == expected(array, type_name, sums, counts)


@pytest.mark.parametrize("type_name", ["q4_0", "q4_k"])
def test_a_tensor_without_rows(disk: Disk, type_name: str) -> None:
    nothing = disk.put(values((4, 512), "bf16")).row_range(2, 2)
    whole = replace(job(nothing, type_name), importance=importance_of(disk, random_sums(1, 512), [1.0]))
    assert disk.run([whole]) == [b""]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("tile_bytes", [4, 2048, 5000, 0])
def test_tiles_and_threads_change_nothing(disk: Disk, tile_bytes: int, threads: int) -> None:
    array = values((4 * 600, 512), "bf16")
    sums, counts = random_sums(4, 512), [2.0, 0.0, 5.0, 7.0]
    whole = replace(job(disk.put(array), "q4_1"), importance=importance_of(disk, sums, counts))
    [written] = disk.run([whole], threads=threads, tile_bytes=tile_bytes)
    assert written == expected(array.astype(np.float32), "q4_1", sums, counts)


def test_outputs_that_heed_it_beside_those_that_do_not(disk: Disk) -> None:
    array = values((6, 1024))
    sums, counts = random_sums(2, 1024), [1.0, 4.0]
    whole = replace(job(disk.put(array), "q4_0", "f32", "q8_0", "q5_1"), importance=importance_of(disk, sums, counts))
    written = disk.run([whole], n_files=4)
    assert written == [
        expected(array, "q4_0", sums, counts),
        array.tobytes(),
        ggml.quantize(array, "q8_0").tobytes(),
        expected(array, "q5_1", sums, counts),
    ]


def test_rows_in_another_order(disk: Disk) -> None:
    array, order = values((8, 256)), np.random.default_rng(1).permutation(8)
    sums, counts = random_sums(1, 256), [6.0]
    tensor = disk.put(array).with_rows(order)
    [written] = disk.run([replace(job(tensor, "q5_0"), importance=importance_of(disk, sums, counts))])
    assert written == expected(array[order], "q5_0", sums, counts)


def test_values_are_clamped_first(disk: Disk) -> None:
    array = values((4, 256))
    array[1, 3], array[2, 5] = np.inf, np.nan
    clamped = array.copy()
    clamped[1, 3], clamped[2, 5] = TYPES["q4_1"].max_abs, 0
    sums, counts = random_sums(1, 256), [1.0]
    whole = replace(job(disk.put(array), "q4_1"), importance=importance_of(disk, sums, counts))
    [written] = disk.run([whole], nonfinite="clamp")
    assert written == expected(clamped, "q4_1", sums, counts)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_what_is_stored_is_looked_at(disk: Disk, bad: float) -> None:
    sums = random_sums(2, 256)
    sums[1, 200] = bad
    whole = replace(job(disk.put(values((4, 256))), "q4_0"), importance=importance_of(disk, sums, [1.0, 1.0]))
    with pytest.raises(ValueError, match=r"importance of blk\.tensor is not finite or negative"):
        disk.run([whole])


def test_types_that_need_it_are_refused_without(disk: Disk) -> None:
    for name, info in TYPES.items():
        if info.needs_importance and info.encodes:
            with pytest.raises(ValueError, match=f"{name} needs an importance"):
                disk.run([job(in_memory(values((2, 256))), name)])
