"""What an interrupted run leaves for the next: the facts that decide its bytes, and the pieces that are on the disk.

A journal is one file beside the target. It claims only what was synced before; whoever reads it checks the claims
against the data. Knows neither jobs nor layouts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from fastconv import _native
from fastconv.errors import OutputError
from fastconv.layout.commit import sync_folder
from fastconv.layout.kept_file import is_resumable, open_locked, unlink_locked

Facts = Mapping[str, Mapping[str, str]]
"""Section -> name -> value. Two runs with equal facts write the same bytes in the same pieces."""

# One line, then records: chunk, checksum, squares of the delta and of the base, rounded blocks; CRC-32 of all that.
_MAGIC = "fastconv-resume-1"
_RECORD = struct.Struct("<qQddq")
_CRC = struct.Struct("<I")
_LONGEST = 1 << 28
_SYNC = getattr(os, "fdatasync", os.fsync)

# How often claims are made, at most, and how much of the time syncing may take, so that the disk is left to the data.
INTERVAL_SECONDS = 1.0
_SYNC_SHARE = 0.05


class ResumeJournal:
    """The journal at a path, locked from open() on. Its context removes it after finish() and where none can resume.

    claims: pieces of the earlier run, to be checked. Raises OutputError for what cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.claims: list[_native.FinishedChunk] = []
        self._fd = -1
        self._header = b""
        self._seed = 0
        self._end = 0
        self._data: Sequence[int] = ()
        self._due = 0.0
        self._finished = False

    def open(self, facts: Facts) -> str | None:
        """Take over the claims of an earlier run with the same facts; else say in a few words why there are none.

        None: there was nothing to take over, or it has been. Raises OutputError while another run is at it.
        """
        try:
            self._fd = open_locked(self.path)
            with open(self._fd, "rb", closefd=False) as file:
                data = file.read(_LONGEST)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", file=self.path) from None
        self._header = _header(facts)
        if not data:
            return None
        known, claims, end = _read(data)
        why = "its journal is damaged" if known is None else difference(known, facts)
        if why is None:
            self.claims, self._end, self._header = claims, end, data[: data.index(b"\n") + 1]
        return why

    def begin(self, data: Sequence[int]) -> None:
        """From now on keep() makes claims on the files of these descriptors. Raises OSError."""
        self._data = data
        self._seed = _seed(self._header)
        self._due = time.monotonic() + INTERVAL_SECONDS
        if self.claims:
            os.ftruncate(self._fd, self._end)  # what a torn write left
            os.lseek(self._fd, 0, os.SEEK_END)
            return
        # What was claimed before must be gone before anything is claimed of these data.
        os.ftruncate(self._fd, 0)
        os.fsync(self._fd)
        os.lseek(self._fd, 0, os.SEEK_SET)
        _write(self._fd, self._header)
        os.fsync(self._fd)
        sync_folder(os.path.dirname(os.path.abspath(self.path)))

    def keep(self, take: Callable[[], list[_native.FinishedChunk]], *, now: bool = False) -> None:
        """Sync the data and claim the pieces that were written before, if it is time to. Raises OSError."""
        started = time.monotonic()
        if not now and started < self._due:
            return
        chunks = take()
        if chunks:
            for descriptor in self._data:
                _SYNC(descriptor)
            _write(self._fd, b"".join(_record(chunk, self._seed) for chunk in chunks))
            _SYNC(self._fd)
        ended = time.monotonic()
        self._due = ended + max(INTERVAL_SECONDS, (ended - started) / _SYNC_SHARE)

    def finish(self) -> None:
        """The outputs have their names: nothing is left to be resumed."""
        self._finished = True

    def __enter__(self) -> ResumeJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        descriptor, self._fd = self._fd, -1
        if descriptor < 0:
            return
        if self._finished or not is_resumable(kind):
            unlink_locked(self.path, descriptor)
        os.close(descriptor)


def difference(known: Facts, facts: Facts) -> str | None:
    """The first fact of two runs that differs, in words; None where none does."""
    for section in dict.fromkeys((*facts, *known)):
        before, now = known.get(section, {}), facts.get(section, {})
        for name in dict.fromkeys((*now, *before)):
            if before.get(name) != now.get(name):
                return _difference(section, name, before.get(name), now.get(name))
    return None


def _difference(section: str, name: str, before: str | None, now: str | None) -> str:
    if section == "files":
        return f"{name} {'is new' if before is None else 'is no longer read' if now is None else 'changed'}"
    if section == "options":
        return f"{name} is {now}, was {before}"
    if section == "program":
        return f"{name} is another ({before} then, {now} now)"
    if section == "targets":
        return f"it was to write {name if now is None else 'other files'}"
    return f"the {name} of the output differ"


def _header(facts: Facts) -> bytes:
    text = json.dumps(facts, sort_keys=True)
    return f"{_MAGIC} {hashlib.sha256(text.encode()).hexdigest()} {text}\n".encode()


def _seed(header: bytes) -> int:
    """Ties records to their header."""
    return zlib.crc32(header)


def _record(chunk: _native.FinishedChunk, seed: int) -> bytes:
    data = _RECORD.pack(chunk.chunk, chunk.checksum, chunk.delta_squares, chunk.base_squares, chunk.rounded_blocks)
    return data + _CRC.pack(zlib.crc32(data, seed))


def _read(data: bytes) -> tuple[Facts | None, list[_native.FinishedChunk], int]:
    """Facts, None where they are damaged; records up to the first torn one, and where that begins."""
    line, newline, _ = data.partition(b"\n")
    facts = _parsed(line) if newline else None
    if facts is None:
        return None, [], 0
    seed, at = _seed(line + newline), len(line) + 1
    chunks = []
    while at + _RECORD.size + _CRC.size <= len(data):
        record = data[at : at + _RECORD.size]
        if _CRC.unpack_from(data, at + _RECORD.size)[0] != zlib.crc32(record, seed):
            break
        chunks.append(_native.FinishedChunk(*_RECORD.unpack(record)))
        at += _RECORD.size + _CRC.size
    return facts, chunks, at


def _parsed(line: bytes) -> Facts | None:
    magic, _, rest = line.partition(b" ")
    digest, _, text = rest.partition(b" ")
    # What has the right sum was written here, and so is what it should be.
    if magic != _MAGIC.encode() or digest != hashlib.sha256(text).hexdigest().encode():
        return None
    with contextlib.suppress(ValueError, RecursionError):
        facts = json.loads(text)
        if isinstance(facts, dict) and all(isinstance(section, dict) for section in facts.values()):
            return facts
    return None


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
