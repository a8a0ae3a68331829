"""Every way of drawing rows from storages, against NumPy's indexing of the same array."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import FileStorage
from tests.engine.tensors import DTYPES, Disk, in_memory, job, values


def f32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


@pytest.mark.parametrize("type_name", DTYPES)
def test_every_source_type(disk: Disk, type_name: str) -> None:
    array = values((37, 53), type_name)
    tensor = disk.put(array, lead=13)
    np.testing.assert_array_equal(tensor.numpy(), f32(array))
    np.testing.assert_array_equal(tensor.numpy(5, 9), f32(array[5:9]))
    (written,) = disk.run([job(tensor, "f32")])
    assert written == f32(array).tobytes()


@pytest.mark.parametrize("type_name", ["f32", "bf16", "f64"])
def test_rows(disk: Disk, type_name: str) -> None:
    array = values((64, 40), type_name)
    index = np.random.default_rng(1).permutation(64)
    index[10:20] = np.arange(30, 40)  # a run of rows in order, some of them drawn twice
    tensor = disk.put(array, lead=2).with_rows(index)
    (written,) = disk.run([job(tensor, "f32")], tile_bytes=40 * 4 * 7)
    assert written == f32(array[index]).tobytes()


def test_rows_of_a_vector(disk: Disk) -> None:
    array = values((96,), "bf16")
    index = np.random.default_rng(2).permutation(96)
    tensor = disk.put(array).with_rows(index)
    assert disk.run([job(tensor, "f32")]) == [f32(array[index]).tobytes()]
    assert disk.run([job(tensor.with_rows(np.argsort(index)), "bf16")]) == [array.tobytes()]


@pytest.mark.parametrize("type_name", ["f32", "bf16"])
@pytest.mark.parametrize("shape", [(300, 500), (1, 700), (700, 1), (2, 3)])
def test_transposed(disk: Disk, shape: tuple[int, int], type_name: str) -> None:
    array = values(shape, type_name)
    tensor = disk.put(array, lead=6).transposed()
    np.testing.assert_array_equal(tensor.numpy(), f32(array.T))
    assert disk.run([job(tensor, "f32")], tile_bytes=4096) == [f32(array.T).tobytes()]


def test_transposed_larger_than_a_walk(disk: Disk) -> None:
    """A walk along the columns gives pages back on its way; they come again for the next tile."""
    array = values((1536, 6000), "bf16")
    tensor = disk.put(array).transposed()
    assert disk.run([job(tensor, "bf16")]) == [np.ascontiguousarray(array.T).tobytes()]


@pytest.mark.parametrize("axis", [0, 1])
def test_joined(disk: Disk, axis: int) -> None:
    shapes = [(24, 40), (8, 40), (32, 40)] if axis == 0 else [(24, 32), (24, 64), (24, 8)]
    arrays = [values(shape, "bf16", seed) for seed, shape in enumerate(shapes)]
    tensor = LazyTensor.joined("joined", [disk.put(array, lead=3) for array in arrays], axis)
    joined = np.concatenate(arrays, axis)
    assert disk.run([job(tensor, "bf16")]) == [joined.tobytes()]
    index = np.random.default_rng(3).permutation(len(joined))
    assert disk.run([job(tensor.with_rows(index), "f32")]) == [f32(joined[index]).tobytes()]


def test_joined_from_types_that_differ(disk: Disk) -> None:
    parts = [values((6, 10), name) for name in ("f16", "bf16", "f64")]
    tensor = LazyTensor.joined("joined", [disk.put(part) for part in parts], 1)
    assert disk.run([job(tensor, "f32")]) == [np.concatenate([f32(part) for part in parts], 1).tobytes()]


def test_strided_with_gaps(disk: Disk) -> None:
    array = values((50, 64), "bf16")
    whole = disk.put(array, lead=4)
    storage = whole.pieces[0].storage
    gaps = LazyTensor.stored("gaps", "bf16", (25, 21), storage, 4 + 2 * 3, (128, 3))
    assert disk.run([job(gaps, "f32")]) == [f32(array[::2, 3:66:3]).tobytes()]
    vector = LazyTensor.stored("vector", "bf16", (640,), storage, 4, (5,))
    assert disk.run([job(vector, "bf16")], tile_bytes=1024) == [array.ravel()[::5].tobytes()]
    expanded = LazyTensor.stored("expanded", "bf16", (7, 64), storage, 4, (0, 1))
    assert disk.run([job(expanded, "bf16")]) == [np.tile(array[0], 7).tobytes()]


def test_memory(disk: Disk) -> None:
    array = values((16, 32))
    assert disk.run([job(in_memory(array), "f32")]) == [array.tobytes()]


def test_rows_outside_are_refused(disk: Disk) -> None:
    tensor = disk.put(values((4, 4)))
    for start, stop in ((-1, 2), (3, 2), (0, 5)):
        with pytest.raises(ValueError, match="of 4"):
            tensor.numpy(start, stop)


@st.composite
def views(draw: st.DrawFn) -> tuple[np.ndarray, list[tuple[str, object]]]:
    n_rows, n_cols = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    steps: list[tuple[str, object]] = []
    for _ in range(draw(st.integers(0, 3))):
        step = draw(st.sampled_from(["transpose", "rows", "join0", "join1"]))
        if step == "rows":
            steps.append((step, draw(st.integers(0, 1000))))
        else:
            steps.append((step, None))
    dtype = draw(st.sampled_from(["f32", "bf16", "f16", "f64"]))
    return values((n_rows, n_cols), dtype, draw(st.integers(0, 1000))), steps


@settings(deadline=None, max_examples=150)
@given(views(), st.integers(1, 3), st.sampled_from([0, 64, 1024]))
def test_any_composition(case: tuple[np.ndarray, list[tuple[str, object]]], threads: int, tile_bytes: int) -> None:
    array, steps = case
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder))
        tensor, expected = disk.put(array, lead=5), array
        for step, seed in steps:
            if step == "transpose" and tensor.rows is None:
                tensor, expected = tensor.transposed(), expected.T
            elif step == "rows":
                index = np.random.default_rng(seed).integers(0, len(expected), len(expected))
                tensor, expected = tensor.with_rows(index), expected[index]
            elif step == "join0":
                tensor = LazyTensor.joined("joined", [tensor, tensor], 0)
                expected = np.concatenate([expected, expected], 0)
            elif step == "join1" and tensor.rows is None:
                tensor = LazyTensor.joined("joined", [tensor, tensor], 1)
                expected = np.concatenate([expected, expected], 1)
        (written,) = disk.run([job(tensor, "f32")], threads=threads, tile_bytes=tile_bytes)
    assert written == f32(np.ascontiguousarray(expected)).tobytes()


def test_storages_of_one_file_are_mapped_once(disk: Disk) -> None:
    array = values((64, 64))
    path = Path(disk.put(array).files[0])
    tensors = [LazyTensor.stored(str(i), "f32", (64, 64), FileStorage(path), 0) for i in range(50)]
    sources = [tensor.native() for tensor in tensors]
    maps = Path("/proc/self/maps").read_text()
    assert maps.count(str(path)) == 1
    del sources
    assert str(path) not in Path("/proc/self/maps").read_text()
