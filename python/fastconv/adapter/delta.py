"""What an adapter does to a tensor, in canonical names and rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastconv.checkpoint.lazy_tensor import LazyTensor


@dataclass(frozen=True, slots=True, eq=False)
class LoraDelta:
    """W += scale * B @ A, then, with a magnitude, every row rescaled to it (DoRA).

    b: (n_out, rank). a: (rank, n_in). magnitude: (n_out, 1) as a matrix. scale already holds alpha, rank and the user's
    factor. adapter: path, for messages.
    """

    b: LazyTensor
    a: LazyTensor
    scale: float
    magnitude: LazyTensor | None = None
    adapter: str = ""

    def with_rows(self, index: np.ndarray) -> LoraDelta:
        """The delta of the tensor whose row r is row index[r]."""
        magnitude = None if self.magnitude is None else self.magnitude.with_rows(index)
        return LoraDelta(self.b.with_rows(index), self.a, self.scale, magnitude, self.adapter)


@dataclass(frozen=True, slots=True, eq=False)
class MergedTensor:
    """A base tensor (or what replaces it whole) and the deltas applied to it in order."""

    base: LazyTensor
    deltas: tuple[LoraDelta, ...] = ()

    def with_rows(self, index: np.ndarray) -> MergedTensor:
        return MergedTensor(self.base.with_rows(index), tuple(d.with_rows(index) for d in self.deltas))


@dataclass(frozen=True, slots=True, eq=False)
class AdapterSummary:
    """What was applied. n_tensors: adapter tensors, all of them placed. scales: distinct scales, in order of appearance."""

    path: str
    n_tensors: int
    scales: tuple[float, ...]
    warnings: tuple[str, ...] = ()
