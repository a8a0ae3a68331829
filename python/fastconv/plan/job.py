"""A conversion as data: every tensor's source, deltas, types and offsets, known before a byte is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastconv.adapter.delta import LoraDelta
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.record import record

if TYPE_CHECKING:
    from fastconv.checkpoint.imatrix import Importance


@record(eq=True)
class TensorOutput:
    """Where one file holds the tensor. file: index of the output file; offset, size: bytes from that file's start."""

    file: int
    type: str
    offset: int
    size: int


@record
class TensorJob:
    """One tensor of the target. name: in the target's naming. shape: output dimension first."""

    name: str
    source_name: str
    shape: tuple[int, ...]
    source: LazyTensor
    deltas: tuple[LoraDelta, ...]
    outputs: tuple[TensorOutput, ...]
    importance: Importance | None = None

    @property
    def factors(self) -> tuple[LazyTensor, ...]:
        """What decides its elements beside the source: the factors of deltas, the sums of the importance."""
        sums = () if self.importance is None else (self.importance.sums,)
        return (*(factor for delta in self.deltas for factor in delta.factors), *sums)
