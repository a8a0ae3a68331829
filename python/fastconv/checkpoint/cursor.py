"""Reads the fields of a binary header one after the other, never past the end of the file."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError


class Cursor:
    """A position in a file and a window of its bytes. Everything little-endian.

    chunk: bytes read at a time. limit: how far a header may reach.
    """

    def __init__(self, storage: FileStorage, chunk: int = 1 << 20, limit: int = 1 << 62) -> None:
        self.storage = storage
        self.position = 0
        self._chunk = chunk
        self._limit = limit
        self._window = b""
        self._start = 0

    @property
    def remaining(self) -> int:
        return self.storage.size - self.position

    def take(self, length: int) -> bytes:
        """The next `length` bytes. Raises CheckpointError where the file or the limit ends before."""
        at = self.locate(length)
        self.position += length
        return self._window[at : at + length]

    def unpack(self, fields: struct.Struct) -> tuple[Any, ...]:
        at = self.locate(fields.size)
        self.position += fields.size
        return fields.unpack_from(self._window, at)

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def checked_length(self, length: int, longest: int) -> int:
        if length > longest:
            raise CheckpointError(
                "holds a string that is too long",
                file=self.storage.path,
                found=f"{length} bytes",
                expected=f"at most {longest}",
            )
        return length

    def locate(self, length: int) -> int:
        """Where the next `length` bytes begin in the window, once they are in it."""
        at = self.position - self._start
        if at < 0 or at + length > len(self._window):
            self.check_limit(length)
            size = max(length, min(self._chunk, self.remaining))
            self._window = self.storage.read(self.position, size)
            self._start = self.position
            at = 0
        return at

    def check_limit(self, length: int) -> None:
        """Raises CheckpointError where the next `length` bytes reach beyond what a header may have."""
        if self.position + length > self._limit:
            raise CheckpointError("header is too long", file=self.storage.path, expected=f"at most {self._limit} bytes")

    def check_count(self, count: int, least: int, what: str) -> None:
        """Raises CheckpointError where `count` items of at least `least` bytes cannot be in the rest of the file."""
        if count * least > self.remaining:
            raise CheckpointError(
                f"states more {what} than fit into it",
                file=self.storage.path,
                found=f"{count} {what}",
                expected=f"at most {self.remaining // least} in {self.remaining} bytes",
                fix="download or copy it again",
            )


class KeptCursor(Cursor):
    """A cursor whose window grows from the start of the file, so that what was checked is what is kept.

    memory: bytes that all may take which is kept of a header, the window included. Raises MemoryError without memory.
    """

    def __init__(self, storage: FileStorage, limit: int, memory: int) -> None:
        super().__init__(storage, limit=limit)
        self._memory = memory
        self._size = 0
        # Pages of its own: an array of bytes would be copied as it grows.
        with _memory_errors():
            self._kept = mmap.mmap(-1, self._chunk, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def locate(self, length: int) -> int:
        end = self.position + length
        if end > self._size:
            self.check_limit(length)
            self.storage.check_holds(self.position, length)
            end = min(max(end, self._size + self._chunk), self._limit, self.storage.size)
            self.spend(end - self._size)
            if end > len(self._kept):
                with _memory_errors():
                    self._kept.resize(end)
            with memoryview(self._kept) as window, window[self._size : end] as part:
                self.storage.read_into(part, self._size)
            self._size = end
        return self.position

    def take(self, length: int) -> bytes:
        at = self.locate(length)
        self.position += length
        return self._kept[at : self.position]

    def unpack(self, fields: struct.Struct) -> tuple[Any, ...]:
        at = self.locate(fields.size)
        self.position += fields.size
        return fields.unpack_from(self._kept, at)

    def skip(self, length: int) -> None:
        self.locate(length)
        self.position += length

    def skip_strings(self, count: int, longest: int) -> None:
        """Past `count` strings, each behind its u64 length. Raises CheckpointError for one longer than `longest`."""
        self.check_count(count, 8, "strings")
        length_at = struct.Struct("<Q").unpack_from
        while count:
            at = self.locate(8)
            kept, last = self._kept, self._size - 8
            # As many as have been read whole: vocabularies have hundreds of thousands.
            while count and at <= last:
                [length] = length_at(kept, at)
                if length > last - at:
                    break
                at += 8 + length
                count -= 1
            self.position = at
            if count:
                self.skip(self.checked_length(self.u64(), longest))
                count -= 1

    def kept(self) -> memoryview:
        """All bytes up to the position, read-only. The cursor is done with them: it can only be asked to spend."""
        self._kept.resize(max(self.position, 1))
        return memoryview(self._kept)[: self.position].toreadonly()

    def spend(self, n_bytes: int) -> None:
        """Raises CheckpointError once more memory is spent than a header may take."""
        self._memory -= n_bytes
        if self._memory < 0:
            raise CheckpointError("header needs more memory than any model's", file=self.storage.path)


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise MemoryError from None
