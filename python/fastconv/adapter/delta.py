"""What an adapter does to a tensor, in canonical names and rows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import ArrayStorage
from fastconv.record import record


@record
class LoraDelta:
    """W += scale * B @ A, then, with a magnitude, every row rescaled (DoRA, see csrc/engine/job.hpp).

    b: (n_out, rank). a: (rank, n_in). magnitude: (n_out, 1) as a matrix. scale already holds alpha, rank and the user's
    factor. adapter: path, for messages.
    """

    b: LazyTensor
    a: LazyTensor
    scale: float
    magnitude: LazyTensor | None = None
    adapter: str = ""

    @property
    def factors(self) -> tuple[LazyTensor, ...]:
        """All that it is made of."""
        return (self.b, self.a) if self.magnitude is None else (self.b, self.a, self.magnitude)

    def with_rows(self, index: Iterable[int]) -> LoraDelta:
        """The delta of the tensor whose row r is row index[r]."""
        magnitude = None if self.magnitude is None else self.magnitude.with_rows(index)
        return LoraDelta(self.b.with_rows(index), self.a, self.scale, magnitude, self.adapter)

    def with_rows_or_zero(self, index: np.ndarray) -> LoraDelta:
        """The delta whose row r is row index[r], zeros where the index is negative. For one without a magnitude."""
        assert self.magnitude is None
        return LoraDelta(rows_or_zero(self.b, index), self.a, self.scale, None, self.adapter)


@record
class MergedTensor:
    """A base tensor (or what replaces it whole) and the deltas applied to it in order."""

    base: LazyTensor
    deltas: tuple[LoraDelta, ...] = ()

    def with_rows(self, index: Iterable[int]) -> MergedTensor:
        base = self.base.with_rows(index)
        if self.deltas and len(base.shape) == 1:
            base = base.as_column()  # the factors of a bias's delta are rows x rank too
        return MergedTensor(base, tuple(d.with_rows(index) for d in self.deltas))

    def row_range(self, start: int, stop: int) -> MergedTensor:
        if (start, stop) == (0, self.base.shape[0]):
            return self
        if not self.deltas:
            return MergedTensor(self.base.row_range(start, stop))
        return self.with_rows(range(start, stop))

    def renamed(self, name: str) -> MergedTensor:
        return MergedTensor(self.base.renamed(name), self.deltas)


def rows_or_zero(b: LazyTensor, index: np.ndarray) -> LazyTensor:
    """Row r of the result is row index[r] of the matrix b, zeros where the index is negative."""
    if (index >= 0).all():
        if (np.diff(index) == 1).all():
            return b.row_range(int(index[0]), int(index[-1]) + 1)
        return b.with_rows(index.tolist())
    zero = LazyTensor.stored("zero", "f32", (1, b.n_cols), ArrayStorage(np.zeros((1, b.n_cols), np.float32)), 0)
    joined = LazyTensor.joined(b.name, [b, zero], axis=0)
    return joined.with_rows(np.where(index < 0, b.n_rows, index).tolist())


@record
class AdapterSummary:
    """What was applied. n_tensors: adapter tensors, all of them placed. scales: distinct, in order of appearance.

    targets: canonical names of the tensors that got a delta; those replaced whole are not among them.
    """

    path: str
    n_tensors: int
    scales: tuple[float, ...]
    warnings: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
