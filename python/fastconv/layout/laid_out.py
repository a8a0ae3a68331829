"""What every layout returns: one output file, known to the byte before anything is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """name: in the target's naming. canonical: Hugging Face's. offset, size: bytes of its data in the file."""

    name: str
    canonical: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class LaidOut:
    """chunks: (offset, bytes) of all that is not tensor data, padding excepted, which is zero. tensors: in file order.

    size: of the whole file in bytes. notes: what users of the file must know, a line each.
    """

    chunks: tuple[tuple[int, bytes], ...]
    tensors: tuple[PlacedTensor, ...]
    size: int
    notes: tuple[str, ...] = ()
