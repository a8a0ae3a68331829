"""Tensors for the engine to draw from, jobs that write them, and the runs."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np

from fastconv import _native
from fastconv.adapter.delta import LoraDelta
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import ArrayStorage, FileStorage
from fastconv.engine import _native_job
from fastconv.plan.job import TensorJob, TensorOutput
from fastconv.types import row_bytes

DTYPES = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f64": np.dtype(np.float64),
    "f8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "f8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Disk:
    """Files of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._n_files = 0

    def path(self) -> Path:
        self._n_files += 1
        return self.folder / f"file-{self._n_files}"

    def put(self, array: np.ndarray, name: str = "tensor", lead: int = 0) -> LazyTensor:
        """The array in a file of its own, after `lead` other bytes."""
        path = self.path()
        path.write_bytes(b"\xa5" * lead + np.ascontiguousarray(array).tobytes())
        return LazyTensor.stored(name, TYPE_NAMES[array.dtype], array.shape, FileStorage(path), lead)

    def run(
        self,
        jobs: list[TensorJob],
        n_files: int = 1,
        threads: int = 2,
        nonfinite: str = "error",
        tile_bytes: int = 0,
        direct: bool = True,
    ) -> list[bytes]:
        """What a native run writes into each output file."""
        contents, _ = self.run_with_stats(jobs, n_files, threads, nonfinite, tile_bytes, direct)
        return contents

    def run_with_stats(
        self,
        jobs: list[TensorJob],
        n_files: int = 1,
        threads: int = 2,
        nonfinite: str = "error",
        tile_bytes: int = 0,
        direct: bool = True,
    ) -> tuple[list[bytes], list[_native.DeltaStats | None]]:
        paths = [self.path() for _ in range(n_files)]
        descriptors = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in paths]
        try:
            run = _native.Run(
                [_native_job(job) for job in jobs], descriptors, threads, nonfinite, tile_bytes, direct=direct
            )
            assert run.wait(60)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return [path.read_bytes() for path in paths], run.delta_stats()


def in_memory(array: np.ndarray, name: str = "tensor") -> LazyTensor:
    array = np.ascontiguousarray(array)
    return LazyTensor.stored(name, TYPE_NAMES[array.dtype], array.shape, ArrayStorage(array), 0)


def job(source: LazyTensor, *types: str, deltas: tuple[LoraDelta, ...] = (), offset: int = 0) -> TensorJob:
    """A job that writes the first type into file 0, the next into file 1, ..., all at `offset`."""
    outputs = tuple(
        TensorOutput(i, name, offset, source.n_rows * row_bytes(name, source.n_cols)) for i, name in enumerate(types)
    )
    return TensorJob(f"blk.{source.name}", source.name, source.shape, source, deltas, outputs)


def values(shape: tuple[int, ...], type_name: str = "f32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[type_name])
