"""An output that bears its final name only when it is whole and on disk.

Everything is written to a temporary file in the target's folder; sync() brings it to the disk, commit() gives it the
name (commit.py: with all others of the run). Whatever else happens, discard() leaves nothing behind and an older file
of that name as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterator
from types import TracebackType

from fastconv import _native
from fastconv.errors import OutputError
from fastconv.layout.kept_file import is_resumable, kept_name, open_locked, unlink_locked
from fastconv.layout.laid_out import Checksum, CopiedBytes
from fastconv.layout.leftovers import lock, remove_leftovers, temporary_name
from fastconv.layout.rename import exchange, rename_new

_COPY_BYTES = 1 << 20


class OutputFile:
    """A file of `size` bytes under construction; leaving its context without commit() discards it.

    overwrite: replace an older file of that name. is_kept: where the run can be resumed, the temporary file stays for
    that, locked meanwhile, and open() finds it again. is_synced: false leaves to the system when it is on the disk. A
    signal may come between any two steps, so have the context left in every case before open().
    """

    def __init__(
        self, path: str, size: int, *, overwrite: bool = False, is_kept: bool = False, is_synced: bool = True
    ) -> None:
        self.path = path
        self.size = size
        self.overwrite = overwrite
        self._is_kept = is_kept
        self.is_synced = is_synced
        self.folder, self._name = os.path.split(os.path.abspath(path))
        self._temporary: str | None = None
        self._fd = -1
        self._is_new = self._is_exchanged = False  # how it was committed

    def open(self) -> None:
        """Make the temporary file and reserve its room, once what dead runs to this target left is gone.

        Raises OutputError if the folder is missing, full or closed.
        """
        remove_leftovers(self.folder, self._name)
        if self._is_kept:
            return self._open_kept()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            while self._fd < 0:
                self._temporary = os.path.join(self.folder, temporary_name(self._name))
                self._fd = os.open(self._temporary, flags, 0o666)
                if not lock(self._fd):
                    self._close()
            if self.is_synced:
                _native.reserve(self._fd, self.size)
            else:  # room that is reserved costs time where writes wait in memory
                os.ftruncate(self._fd, self.size)
        except OSError as error:
            raise write_error(self.path, error) from None

    def _open_kept(self) -> None:
        self._temporary = kept_name(self.path)
        try:
            self._fd = open_locked(self._temporary)
            _native.reserve(self._fd, self.size)
        except OSError as error:
            raise write_error(self.path, error) from None

    def fileno(self) -> int:
        return self._fd

    def write(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, offset)
                if written == 0:  # a device that takes nothing would be asked for ever
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                view = view[written:]
                offset += written
        except OSError as error:
            raise write_error(self.path, error) from None

    def copy(self, copied: CopiedBytes) -> None:
        """Bytes of an input as they are. Raises CheckpointError where it changed or cannot be read."""
        for done in range(0, copied.size, _COPY_BYTES):
            n = min(_COPY_BYTES, copied.size - done)
            self.write(copied.storage.read(copied.start + done, n), copied.offset + done)
        copied.storage.check_unchanged()

    def seal(self, checksum: Checksum) -> None:
        """Store the CRC-32 of data that has been written."""
        crc = 0
        for data in self._read(checksum.offset, checksum.size):
            crc = zlib.crc32(data, crc)
        for place in checksum.places:
            self.write(crc.to_bytes(4, "little"), place)

    def sha256(self) -> str:
        """The sum of what has been written, in hexadecimal: one pass over it."""
        import hashlib

        digest = hashlib.sha256()
        for data in self._read(0, self.size):
            digest.update(data)
        return digest.hexdigest()

    def _read(self, offset: int, size: int) -> Iterator[bytes]:
        while size > 0:
            try:
                data = os.pread(self._fd, min(_COPY_BYTES, size), offset)
            except OSError as error:
                raise write_error(self.path, error) from None
            if not data:
                raise OutputError("became shorter while it was written", file=self.path, fix="do not modify it")
            yield data
            offset += len(data)
            size -= len(data)

    def sync(self) -> None:
        """Wait until all that was written is on the disk, if it is to be. Raises OutputError if it cannot be."""
        try:
            if self.is_synced:
                os.fsync(self._fd)
            else:  # what a network's file system has refused it tells whoever closes the file
                os.close(os.dup(self._fd))
        except OSError as error:
            raise write_error(self.path, error) from None

    def commit(self, *, may_revert: bool = False) -> None:
        """Take the final name, after sync(). Raises OutputError if that fails or, unless overwrite, it is taken.

        may_revert: an older file is kept for revert() until finish(), where the file system can exchange names.
        """
        assert self._temporary is not None
        try:
            if not self.overwrite or (may_revert and not os.path.lexists(self.path)):
                rename_new(self._temporary, self.path)
                self._is_new = True
            elif may_revert and exchange(self._temporary, self.path):
                self._is_exchanged = True
            else:
                os.replace(self._temporary, self.path)
                self._temporary = None
        except FileExistsError:
            raise exists_error(self.path) from None
        except OSError as error:
            raise write_error(self.path, error) from None

    def revert(self) -> bool:
        """Give the name back to what had it before commit(). Whether it has it; raises OSError."""
        if self._temporary is None:
            return False
        if self._is_exchanged and not exchange(self._temporary, self.path):
            return False
        if self._is_new:
            rename_new(self.path, self._temporary)
        self._is_new = self._is_exchanged = False
        return True

    def finish(self) -> None:
        """Let go of the file, and of the older one that it replaced, after commit()."""
        if self._is_new:
            self._temporary = None
        self.discard()

    def discard(self) -> None:
        """Remove the temporary file. After commit() only an older file can have its name."""
        self._close()
        if self._temporary is not None and not self._is_new:
            # What cannot be removed is a leftover for the next run.
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
        self._temporary = None

    def _close(self) -> None:
        # Forgotten first: Ctrl-C between the two must not have it closed twice.
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_kept and self._temporary is not None:
            if not is_resumable(kind) and self._fd >= 0:
                unlink_locked(self._temporary, self._fd)
            self._close()
        else:
            self.discard()


def exists_error(path: str) -> OutputError:
    return OutputError("exists already", file=path, fix="give --overwrite to replace it")


def write_error(path: str, error: OSError) -> OutputError:
    """What a failed write means to the user."""
    fix = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return OutputError(f"cannot be written ({error.strerror})", file=path, fix=fix)
