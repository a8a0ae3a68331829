"""Tensors of halves into blocks: ggml's bytes wherever the elements lie, and what becomes of those that do not fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fastconv import engine
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import NonFiniteError
from tests.engine.tensors import Disk, job, values
from tests.kernels import ggml

BLOCKS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
SHAPE = (70, 1536)
Lay = Callable[[Disk, np.ndarray], LazyTensor]


def joined(columns: int) -> Lay:
    """In two files, side by side: `columns` of the first."""
    return lambda disk, array: LazyTensor.joined(
        "joined", [disk.put(part) for part in np.split(array, [columns], axis=1)], 1
    )


LAYOUTS: dict[str, Lay] = {
    "in one run": lambda disk, array: disk.put(array),
    "at an odd offset": lambda disk, array: disk.put(array, lead=3),
    "rows in another order": lambda disk, array: disk.put(array[::-1]).with_rows(range(len(array) - 1, -1, -1)),
    "parts of blocks": joined(512),
    "parts across blocks": joined(520),
    "parts one below the other": lambda disk, array: LazyTensor.joined(
        "joined", [disk.put(array[:33]), disk.put(array[33:])], 0
    ),
    "transposed": lambda disk, array: disk.put(np.ascontiguousarray(array.T)).transposed(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("type", ["f16", "bf16"])
@pytest.mark.parametrize("tile_bytes", [0, 4096])
def test_ggml_writes_the_same_bytes(disk: Disk, layout: str, type: str, tile_bytes: int) -> None:
    array = values(SHAPE, type)
    written = disk.run([job(LAYOUTS[layout](disk, array), *BLOCKS)], n_files=len(BLOCKS), tile_bytes=tile_bytes)
    x = array.astype(np.float32)
    for name, found in zip(BLOCKS, written, strict=True):
        assert found == ggml.quantize(x, name).tobytes(), name


def test_beside_outputs_of_other_kinds(disk: Disk) -> None:
    array = values(SHAPE, "bf16")
    q4_0, copy, q6_k, f16 = disk.run([job(disk.put(array), "q4_0", "bf16", "q6_k", "f16")], n_files=4)
    x = array.astype(np.float32)
    assert (q4_0, q6_k) == (ggml.quantize(x, "q4_0").tobytes(), ggml.quantize(x, "q6_k").tobytes())
    assert (copy, f16) == (array.tobytes(), x.astype(np.float16).tobytes())


@pytest.mark.parametrize("types", [("q4_0",), ("q8_0", "q4_1"), ("q5_1", "bf16"), ("q5_0", "q6_k"), ("bf16",)])
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("layout", ["in one run", "rows in another order", "parts across blocks"])
def test_refused_with_its_place(disk: Disk, types: tuple[str, ...], bad: str, layout: str) -> None:
    array = values(SHAPE, "bf16")
    array[41, 1234] = float(bad)
    output = disk.path()
    with output.open("wb") as file, pytest.raises(NonFiniteError) as error:
        engine.run([job(LAYOUTS[layout](disk, array), *types)], [file.fileno()] * len(types), threads=2)
    # Places are those of the file.
    row, column = {"rows in another order": (28, 1234)}.get(layout, (41, 1234))
    assert f"row {row}, column {column} is {bad}" in str(error.value)


@pytest.mark.parametrize("tile_bytes", [0, 4096])
@pytest.mark.parametrize("types", [BLOCKS, ("q4_0", "bf16"), ("q8_0", "q6_k"), ("q8_0",)])
def test_clamped(disk: Disk, types: tuple[str, ...], tile_bytes: int) -> None:
    array = values(SHAPE, "bf16")
    array[3, 4], array[20, 0], array[69, 1535], array[30, 7] = np.nan, np.inf, -np.inf, 3e38
    written = disk.run([job(disk.put(array), *types)], n_files=len(types), nonfinite="clamp", tile_bytes=tile_bytes)
    exact = array.astype(np.float32)
    exact[3, 4] = 0
    for name, found in zip(types, written, strict=True):
        limit = np.float32(ggml.TYPES[name].max_abs)
        x = np.clip(exact, -limit, limit)
        want = x.astype(array.dtype).tobytes() if name == "bf16" else ggml.quantize(x, name).tobytes()
        assert found == want, name


def test_a_value_that_one_output_cannot_hold(disk: Disk) -> None:
    array = values((64, 256), "bf16")
    array[9, 9] = 1e6
    x = array.astype(np.float32)
    limit = np.float32(ggml.TYPES["q4_0"].max_abs)
    assert limit < x[9, 9] < ggml.TYPES["q8_0"].max_abs
    with disk.path().open("wb") as file, pytest.raises(NonFiniteError, match=r"row 9, column 9 is .*overflows q4_0"):
        engine.run([job(disk.put(array), "q8_0", "q4_0")], [file.fileno()] * 2, threads=1)
    q8_0, q4_0 = disk.run([job(disk.put(array), "q8_0", "q4_0")], n_files=2, nonfinite="clamp")
    assert q8_0 == ggml.quantize(x, "q8_0").tobytes()
    assert q4_0 == ggml.quantize(np.minimum(x, limit), "q4_0").tobytes()


def test_kept(disk: Disk) -> None:
    array = values(SHAPE, "bf16")
    array[3, 4], array[20, 0], array[69, 1535] = np.nan, np.inf, -np.inf
    types = ("q4_0", "q8_0", "bf16")
    *blocks, copy = disk.run([job(disk.put(array), *types)], n_files=3, nonfinite="keep")
    through_f32 = disk.run([job(disk.put(array.astype(np.float32)), *types)], n_files=3, nonfinite="keep")
    assert copy == array.tobytes()
    assert blocks == through_f32[:2]
