"""An output that bears its final name only when it is whole and on disk.

Everything is written to a temporary file in the target's folder; sync() brings it to the disk, commit() gives it the
name and syncs the folder. Whatever else happens, discard() leaves nothing behind and an older file of that name as it
was.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import zlib
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType

from fastconv import _native
from fastconv.errors import OutputError
from fastconv.layout.laid_out import Checksum, CopiedBytes

PARTIAL_SUFFIX = ".fastconv-partial"
_COPY_BYTES = 1 << 20


class OutputFile:
    """A file of `size` bytes under construction; leaving its context without commit() discards it.

    A signal may come between any two steps, so have the context left in every case before open().
    """

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        folder, self._name = os.path.split(os.path.abspath(path))
        self._folder = folder
        self._temporary: str | None = None
        self._fd = -1

    def open(self) -> None:
        """Make the temporary file and reserve its room. Raises OutputError if the folder is missing, full or closed."""
        self._temporary = os.path.join(self._folder, f".{self._name}.{os.urandom(4).hex()}{PARTIAL_SUFFIX}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            self._fd = os.open(self._temporary, flags, 0o666)
        except OSError as error:
            self._temporary = None
            raise OutputError(f"cannot be written ({error.strerror})", file=self.path) from None
        try:
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
                view = view[written:]
                offset += written
        except OSError as error:
            raise write_error(self.path, error) from None

    def copy(self, copied: CopiedBytes) -> None:
        """Bytes of an input as they are. Raises CheckpointError where it has become shorter."""
        for done in range(0, copied.size, _COPY_BYTES):
            n = min(_COPY_BYTES, copied.size - done)
            self.write(copied.storage.read(copied.start + done, n), copied.offset + done)

    def seal(self, checksum: Checksum) -> None:
        """Store the CRC-32 of data that has been written."""
        crc = 0
        try:
            for done in range(0, checksum.size, _COPY_BYTES):
                n = min(_COPY_BYTES, checksum.size - done)
                crc = zlib.crc32(os.pread(self._fd, n, checksum.offset + done), crc)
        except OSError as error:
            raise write_error(self.path, error) from None
        for place in checksum.places:
            self.write(crc.to_bytes(4, "little"), place)

    def sha256(self) -> str:
        """The sum of what has been written, in hexadecimal: one pass over it."""
        digest = hashlib.sha256()
        try:
            for done in range(0, self.size, _COPY_BYTES):
                digest.update(os.pread(self._fd, min(_COPY_BYTES, self.size - done), done))
        except OSError as error:
            raise write_error(self.path, error) from None
        return digest.hexdigest()

    def sync(self) -> None:
        """Wait until all that was written is on the disk. Raises OutputError if it cannot be."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise write_error(self.path, error) from None

    def commit(self, *, overwrite: bool) -> None:
        """Take the final name, after sync(). Raises OutputError if that fails or, unless overwrite, it is taken."""
        assert self._temporary is not None
        try:
            if overwrite:
                os.replace(self._temporary, self.path)
            else:
                # A hard link fails where the name exists: no window between a check and the rename.
                try:
                    os.link(self._temporary, self.path)
                except FileExistsError:
                    raise exists_error(self.path) from None
                except OSError:
                    if os.path.lexists(self.path):
                        raise exists_error(self.path) from None
                    os.rename(self._temporary, self.path)
                else:
                    os.unlink(self._temporary)
            self._temporary = None
            sync_folder(self._folder)
        except OSError as error:
            raise write_error(self.path, error) from None
        finally:
            if self._temporary is None:
                self._close()

    def discard(self) -> None:
        """Remove the temporary file. Does nothing after commit()."""
        self._close()
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)
            self._temporary = None

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()


def check_targets(
    targets: Mapping[str, int], inputs: Sequence[str], *, overwrite: bool, folders: Collection[str] = ()
) -> None:
    """Before anything is written: every target is allowed, writable and has room.

    targets: path -> size in bytes. inputs: files being read, which no target may be. folders: those that hold targets
    and are made where they are missing. Raises OutputError.
    """
    needed: dict[int, tuple[str, int]] = {}
    for made in folders:
        if os.path.lexists(made) and not os.path.isdir(made):
            raise OutputError("is no folder", file=made, fix="give --outfile another name")
    for path, size in targets.items():
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.lexists(folder) and os.path.dirname(path) in folders:
            folder = os.path.dirname(folder)
        if os.path.isdir(path):
            raise OutputError("is a folder", file=path, fix="give --outfile a file name")
        if not os.path.isdir(folder):
            raise OutputError("the folder does not exist", file=folder, fix="make it first")
        if os.path.lexists(path):
            for source in inputs:
                if os.path.exists(path) and os.path.samefile(path, source):
                    raise OutputError("is an input of this run", file=path, fix="write to another file")
            if not overwrite:
                raise exists_error(path)
            if os.path.exists(path) and not os.path.isfile(path):
                raise OutputError("is no regular file", file=path, fix="write to another file")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError("cannot be written (no permission for the folder)", file=path)
        device = os.stat(folder).st_dev
        needed[device] = (folder, needed.get(device, ("", 0))[1] + size)
    for folder, size in needed.values():
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OutputError(
                "not enough room", file=folder, found=f"{free} bytes free", expected=f"{size}", fix="free some space"
            )


def exists_error(path: str) -> OutputError:
    return OutputError("exists already", file=path, fix="give --overwrite to replace it")


def write_error(path: str, error: OSError) -> OutputError:
    """What a failed write means to the user."""
    fix = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return OutputError(f"cannot be written ({error.strerror})", file=path, fix=fix)


def sync_folder(folder: str) -> None:
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
