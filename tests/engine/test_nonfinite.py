"""Weights that an output type cannot hold: refused by name, kept, or clamped."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import pytest

from fastconv import engine
from fastconv.adapter.delta import LoraDelta
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import NonFiniteError
from tests.engine.tensors import Disk, in_memory, job, values

BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}


def refusal(disk: Disk, *jobs: object) -> str:
    descriptor = os.open(disk.path(), os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(NonFiniteError) as error:
            engine.run(jobs, [descriptor, descriptor], threads=2)  # type: ignore[arg-type]
    finally:
        os.close(descriptor)
    assert "--nonfinite clamp" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("types", [("bf16",), ("f32",), ("bf16", "f32")])
def test_refused_with_its_place(disk: Disk, bad: str, types: tuple[str, ...]) -> None:
    array = values((300, 500), "bf16")
    array[217, 123] = BAD[bad]
    tensor = disk.put(array, "lm_head.weight")
    message = refusal(disk, job(disk.put(values((400, 400)), "fine"), *types), job(tensor, *types))
    assert f"tensor lm_head.weight: row 217, column 123 is {bad}" in message
    assert tensor.files[0] in message


def test_place_counts_rows_as_stored(disk: Disk) -> None:
    array = values((8, 64), "bf16")
    array[3, 5] = np.nan
    index = np.array([7, 6, 5, 4, 3, 2, 1, 0])
    assert "row 3, column 5" in refusal(disk, job(disk.put(array).with_rows(index), "f32"))


def test_only_the_file_that_holds_it_is_named(disk: Disk) -> None:
    parts = [values((8, 64), "bf16", seed) for seed in range(3)]
    parts[1][3, 5] = np.nan
    tensors = [disk.put(part) for part in parts]
    message = refusal(disk, job(LazyTensor.joined("joined", tensors, 1), "f32"))
    assert message.startswith(f"{tensors[1].files[0]}: tensor joined: row 3, column 69 is nan")


def test_the_first_of_many_is_named(disk: Disk) -> None:
    array = values((4000, 500), "bf16")
    array[100:, ::7] = np.inf
    tensor = disk.put(array)
    for _ in range(5):
        assert "row 100, column 0 is inf" in refusal(disk, job(tensor, "f32"))


def test_overflow_of_the_type(disk: Disk) -> None:
    array = values((4, 64), "bf16")
    array[2, 9] = 70000
    message = refusal(disk, job(disk.put(array), "bf16", "f16"))
    assert "row 2, column 9 is 70144, which overflows f16 (largest 65504)" in message


def test_overflow_by_the_merge(disk: Disk) -> None:
    delta = LoraDelta(in_memory(np.full((4, 1), 60000, np.float32)), in_memory(np.full((1, 64), 2, np.float32)), 1.0)
    array = np.zeros((4, 64), np.float32)
    message = refusal(disk, job(disk.put(array), "f16", deltas=(delta,)))
    assert "row 0, column 0 is 120000 after the merge, which overflows f16" in message


def test_dora_of_an_all_zero_row(disk: Disk) -> None:
    zeros = LoraDelta(
        *(in_memory(np.zeros(s, np.float32)) for s in ((4, 1), (1, 64))), 1.0, in_memory(np.ones((4, 1), np.float32))
    )
    assert "row 0, column 0 is nan" in refusal(
        disk, job(disk.put(np.zeros((4, 64), np.float32)), "f32", deltas=(zeros,))
    )


@pytest.mark.parametrize("tile_bytes", [0, 256, 4096])
def test_clamped(disk: Disk, tile_bytes: int) -> None:
    array = values((40, 300), "bf16")
    array[3, 4], array[20, 0], array[39, 299], array[30, 7], array[31, 7] = np.nan, np.inf, -np.inf, 70000, -0.0
    jobs = [job(disk.put(array), "bf16", "f16", "f32")]
    bf16, f16, f32 = disk.run(jobs, n_files=3, nonfinite="clamp", tile_bytes=tile_bytes)
    exact = array.astype(np.float32)
    exact[3, 4] = 0
    largest = {"bf16": float(ml_dtypes.finfo(ml_dtypes.bfloat16).max), "f16": 65504.0, "f32": 3.4028234663852886e38}
    for written, dtype, limit in (
        (bf16, ml_dtypes.bfloat16, largest["bf16"]),
        (f16, np.float16, largest["f16"]),
        (f32, np.float32, largest["f32"]),
    ):
        assert written == np.clip(exact, -limit, limit).astype(dtype).tobytes()


def test_clamped_when_copied_alone(disk: Disk) -> None:
    array = values((40, 300), "f16")
    array[5, 5], array[6, 6] = np.nan, -np.inf
    (written,) = disk.run([job(disk.put(array), "f16")], nonfinite="clamp", tile_bytes=512)
    array[5, 5], array[6, 6] = 0, -65504
    assert written == array.tobytes()


def test_kept(disk: Disk) -> None:
    array = values((40, 300), "bf16")
    array[3, 4], array[20, 0], array[39, 299] = np.nan, np.inf, -np.inf
    bf16, f32 = disk.run([job(disk.put(array), "bf16", "f32")], n_files=2, nonfinite="keep")
    assert bf16 == array.tobytes()
    np.testing.assert_array_equal(np.frombuffer(f32, np.float32), array.astype(np.float32).ravel())
