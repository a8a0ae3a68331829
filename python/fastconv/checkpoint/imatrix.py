"""Reads importance matrices of llama-imatrix: the GGUF format and the older .dat. Reads no values that no one asks for.

Source: llama.cpp b11434, common/imatrix-loader.cpp (both formats) and tools/quantize/quantize.cpp (what counts mean).
"""

from __future__ import annotations

import math
import os
import struct

import numpy as np

from fastconv.checkpoint import marks
from fastconv.checkpoint.cursor import Cursor
from fastconv.checkpoint.gguf import MAX_NAME_BYTES, read_gguf
from fastconv.checkpoint.gguf_array import GgufArray
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.limits import check_tensor_count
from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError
from fastconv.record import record

MAX_DATASET_BYTES = 1 << 16

_SUMS, _COUNTS, _PLAIN_SUMS = ".in_sum2", ".counts", ".in_sum"
_DATASETS, _CHUNK_COUNT, _CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_I32 = struct.Struct("<i")


@record
class Importance:
    """How much the columns of one tensor matter: sums / counts, row by row, and 1 where a count is 0.

    sums: squared inputs of each column, f32 (n_matrices, n_cols), a row per expert matrix. counts: per matrix.
    """

    sums: LazyTensor
    counts: tuple[float, ...]


@record
class ImatrixEntry:
    """What the file says of one tensor. offset: bytes to n_values sums, f32. counts: of the tensor or its matrices."""

    name: str
    storage: FileStorage
    offset: int
    n_values: int
    counts: tuple[float, ...]

    def values(self) -> np.ndarray:
        """The sums, f32 (n_values,)."""
        return np.frombuffer(self.storage.read(self.offset, 4 * self.n_values), dtype="<f4")

    def importance(self, n_matrices: int, n_cols: int) -> Importance:
        """The entry as that of a tensor of n_matrices with n_cols columns; n_values is their product."""
        sums = LazyTensor.stored(self.name, "f32", (n_matrices, n_cols), self.storage, self.offset)
        each = n_matrices // len(self.counts)
        return Importance(sums, tuple(count for count in self.counts for _ in range(each)))


@record
class ImportanceMatrix:
    """An opened file. path: as given. entries: by tensor name. n_chunks: of text that it was computed from, 0: unknown.

    datasets: names of the texts.
    """

    path: str
    entries: dict[str, ImatrixEntry]
    datasets: tuple[bytes, ...]
    n_chunks: int


def read_imatrix(path: str | os.PathLike[str]) -> ImportanceMatrix:
    """Open an importance matrix of either format.

    Raises CheckpointError for a file that is malformed or no importance matrix, for sums that are not finite or
    negative, and for an entry whose counts are all 0.
    """
    storage = FileStorage(path)
    is_gguf = storage.read(0, min(4, storage.size)) == marks.GGUF
    matrix = _from_gguf(storage) if is_gguf else _from_dat(storage)
    for entry in matrix.entries.values():
        _check_values(entry)
    return matrix


def _from_gguf(storage: FileStorage) -> ImportanceMatrix:
    tensors, metadata, _ = read_gguf(storage)
    for key, kind in ((_DATASETS, GgufArray), (_CHUNK_COUNT, int), (_CHUNK_SIZE, int)):
        if not isinstance(metadata.get(key), kind) or isinstance(metadata[key], bool):
            raise CheckpointError(
                "is no importance matrix", file=storage.path, found=f"no {key}", expected="a file of llama-imatrix"
            )
    parts = (name.rpartition(".") for name in tensors)
    names = dict.fromkeys(base for base, dot, part in parts if dot + part in (_SUMS, _COUNTS, _PLAIN_SUMS))
    entries = {name: _gguf_entry(storage, name, tensors) for name in names}
    return ImportanceMatrix(
        storage.path, _not_empty(entries, storage), _texts(metadata[_DATASETS]), metadata[_CHUNK_COUNT]
    )


def _gguf_entry(storage: FileStorage, name: str, tensors: dict[str, LazyTensor]) -> ImatrixEntry:
    found = {suffix: tensors.get(name + suffix) for suffix in (_SUMS, _COUNTS, _PLAIN_SUMS)}
    sums, counts, plain = found[_SUMS], found[_COUNTS], found[_PLAIN_SUMS]
    if sums is None or counts is None:
        missing = _SUMS if sums is None else _COUNTS
        raise CheckpointError("lacks a part of its importance", file=storage.path, tensor=name, expected=name + missing)
    for tensor in (sums, counts):
        if tensor.dtype != "f32":
            raise CheckpointError("is of the wrong type", file=storage.path, tensor=tensor.name, found=tensor.dtype)
    n_values, n_counts = math.prod(sums.shape), math.prod(counts.shape)
    if plain is not None and math.prod(plain.shape) != n_values:
        raise CheckpointError(
            "has sums of two lengths", file=storage.path, tensor=name, found=math.prod(plain.shape), expected=n_values
        )
    if n_counts < 1 or n_values < 1 or n_values % n_counts:
        raise CheckpointError(
            "has counts that do not fit its sums", file=storage.path, tensor=name, found=f"{n_counts} for {n_values}"
        )
    stored = np.frombuffer(storage.read(counts.pieces[0].offset, 4 * n_counts), dtype="<f4")
    if not (np.isfinite(stored).all() and (stored >= 0).all()):
        raise CheckpointError("has a count that is not finite or negative", file=storage.path, tensor=name)
    # Half away from zero, as lround.
    rounded = tuple(np.floor(stored.astype(np.float64) + 0.5).tolist())
    return ImatrixEntry(name, storage, sums.pieces[0].offset, n_values, rounded)


def _from_dat(storage: FileStorage) -> ImportanceMatrix:
    cursor = Cursor(storage)
    n_entries = _number(cursor, "entries", 1)
    cursor.check_count(n_entries, 3 * _I32.size, "entries")
    check_tensor_count(storage.path, n_entries)
    entries: dict[str, ImatrixEntry] = {}
    for _ in range(n_entries):
        name = _name(cursor)
        if name in entries:
            raise CheckpointError("appears twice", file=storage.path, tensor=name)
        count = _number(cursor, f"calls of {name}", 0)
        n_values = _number(cursor, f"values of {name}", 1)
        cursor.check_count(n_values, 4, f"values of {name}")
        entries[name] = ImatrixEntry(name, storage, cursor.position, n_values, (float(count),))
        cursor.position += 4 * n_values
    # What the text was, and how long, came later and may be missing.
    n_chunks = _number(cursor, "chunks", 0) if cursor.remaining else 0
    datasets: tuple[bytes, ...] = ()
    if cursor.remaining:
        length = cursor.checked_length(_number(cursor, "bytes of the dataset's name", 0), MAX_DATASET_BYTES)
        datasets = (cursor.take(length).split(b"\0")[0],) if length else ()
    if cursor.remaining:
        raise CheckpointError("holds more than its entries", file=storage.path, found=f"{cursor.remaining} bytes more")
    return ImportanceMatrix(storage.path, entries, datasets, n_chunks)


def _number(cursor: Cursor, what: str, least: int) -> int:
    [number] = cursor.unpack(_I32)
    if number < least:
        raise CheckpointError(
            f"states an impossible number of {what}",
            file=cursor.storage.path,
            found=number,
            expected=f"{least} or more",
        )
    return int(number)


def _name(cursor: Cursor) -> str:
    length = _number(cursor, "bytes of a name", 1)
    raw = cursor.take(cursor.checked_length(length, MAX_NAME_BYTES))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("tensor name is not UTF-8", file=cursor.storage.path, found=ascii(raw)) from None


def _not_empty(entries: dict[str, ImatrixEntry], storage: FileStorage) -> dict[str, ImatrixEntry]:
    if not entries:
        raise CheckpointError("holds no importance of any tensor", file=storage.path)
    return entries


def _texts(values: GgufArray) -> tuple[bytes, ...]:
    return tuple(value if isinstance(value, bytes) else str(value).encode() for value in values)


def _check_values(entry: ImatrixEntry) -> None:
    if not any(entry.counts):
        raise CheckpointError(
            "was never used when the importance matrix was computed: its counts are 0",
            file=entry.storage.path,
            tensor=entry.name,
            fix="compute it with more text",
        )
    values = entry.values()
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        index = int(np.argmax(wrong))
        raise CheckpointError(
            f"has an importance that is not finite or negative, value {index}",
            file=entry.storage.path,
            tensor=entry.name,
            found=values[index],
        )
