"""What every layout returns: output files, known to the byte before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field

from fastconv.checkpoint.storage import FileStorage
from fastconv.record import record


@record(eq=True)
class PlacedTensor:
    """name: in the target's naming. canonical: Hugging Face's. offset, size: bytes of its data in the file."""

    name: str
    canonical: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int


@record(eq=True)
class CopiedBytes:
    """Bytes of an input that the output holds as they are. start, size: in the input; offset: in the output."""

    offset: int
    storage: FileStorage
    start: int
    size: int


@record(eq=True)
class Checksum:
    """A CRC-32 that is known once the data is written. offset, size: of the data; places: where the sum is stored."""

    offset: int
    size: int
    places: tuple[int, ...]


@record
class LaidOut:
    """chunks: (offset, bytes) of all that is neither tensor data nor copied, padding excepted, which is zero.

    tensors: in file order. size: of the whole file in bytes. notes: what users of the file must know, a line each.
    name: inside the target's folder; "" where the target is this one file. key_values: GGUF's, each as stored: type,
    then value.
    """

    chunks: tuple[tuple[int, bytes], ...]
    tensors: tuple[PlacedTensor, ...]
    size: int
    notes: tuple[str, ...] = ()
    name: str = ""
    copied: tuple[CopiedBytes, ...] = ()
    checksums: tuple[Checksum, ...] = ()
    key_values: Mapping[str, bytes | memoryview] = field(default_factory=dict)

    def padding(self) -> Iterator[tuple[int, int]]:
        """(offset, size) of what nothing is written to, so that it is zero."""
        taken = [
            *((offset, len(data)) for offset, data in self.chunks),
            *((tensor.offset, tensor.size) for tensor in self.tensors),
            *((part.offset, part.size) for part in self.copied),
            (self.size, 0),
        ]
        end = 0
        for offset, size in sorted(taken):
            if offset > end:
                yield end, offset - end
            end = max(end, offset + size)
