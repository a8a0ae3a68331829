"""What an adapter does to a tensor, in canonical names and rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastconv.checkpoint.lazy_tensor import LazyTensor


@dataclass(frozen=True, slots=True, eq=False)
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

    def with_rows(self, index: Iterable[int]) -> LoraDelta:
        """The delta of the tensor whose row r is row index[r]."""
        magnitude = None if self.magnitude is None else self.magnitude.with_rows(index)
        return LoraDelta(self.b.with_rows(index), self.a, self.scale, magnitude, self.adapter)


@dataclass(frozen=True, slots=True, eq=False)
class MergedTensor:
    """A base tensor (or what replaces it whole) and the deltas applied to it in order."""

    base: LazyTensor
    deltas: tuple[LoraDelta, ...] = ()

    def with_rows(self, index: Iterable[int]) -> MergedTensor:
        base = self.base.with_rows(index)
        if self.deltas and len(base.shape) == 1:
            base = base.as_column()  # the factors of a bias's delta are rows x rank too
        return MergedTensor(base, tuple(d.with_rows(index) for d in self.deltas))


@dataclass(frozen=True, slots=True, eq=False)
class AdapterSummary:
    """What was applied. n_tensors: adapter tensors, all of them placed. scales: distinct, in order of appearance.

    targets: canonical names of the tensors that got a delta; those replaced whole are not among them.
    """

    path: str
    n_tensors: int
    scales: tuple[float, ...]
    warnings: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
