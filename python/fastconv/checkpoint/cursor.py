"""Reads the fields of a binary header one after the other, never past the end of the file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError


class Cursor:
    """A position in a file and a window of its bytes. Everything little-endian.

    chunk: bytes read at a time. limit: how far a header may reach. memory: bytes that what is read may take in Python.
    """

    def __init__(self, storage: FileStorage, chunk: int = 1 << 20, limit: int = 1 << 62, memory: int = 1 << 62) -> None:
        self.storage = storage
        self.position = 0
        self._chunk = chunk
        self._limit = limit
        self._memory = memory
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

    def strings(self, count: int, longest: int) -> Iterator[bytes]:
        """`count` strings, each behind its u64 length. Raises CheckpointError where one is longer than `longest`."""
        self.check_count(count, 8, "strings")
        left = count
        while left:
            at = self.locate(8)
            window = self._window
            # As many as the window holds whole: vocabularies have hundreds of thousands.
            while left:
                stop = at + 8 + int.from_bytes(window[at : at + 8], "little")
                if at + 8 > len(window) or stop > len(window):
                    break
                yield window[at + 8 : stop]
                left -= 1
                at = stop
            self.position = self._start + at
            if left:
                yield self.take(self.checked_length(self.u64(), longest))
                left -= 1

    def spend(self, n_bytes: int) -> None:
        """Raises CheckpointError once more memory is spent than a header may take."""
        self._memory -= n_bytes
        if self._memory < 0:
            raise CheckpointError("header needs more memory than any model's", file=self.storage.path)

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
            if self.position + length > self._limit:
                raise CheckpointError(
                    "header is too long", file=self.storage.path, expected=f"at most {self._limit} bytes"
                )
            size = max(length, min(self._chunk, self.remaining))
            self._window = self.storage.read(self.position, size)
            self._start = self.position
            at = 0
        return at

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
