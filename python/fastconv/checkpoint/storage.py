"""Where a tensor's bytes live: an open file, or an array in memory. Knows nothing of formats."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastconv.errors import CheckpointError
from fastconv.record import record

if TYPE_CHECKING:
    import numpy as np


class FileStorage:
    """An input file, opened once and read at offsets. The engine maps it through `fileno()`.

    Raises CheckpointError if the file is missing, unreadable or not a regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # before opening: a pipe would block
                raise CheckpointError("is not a regular file", file=self.path)
            self._fd = os.open(
                self.path,
                os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0),
            )
            self._status = os.fstat(self._fd)
        except OSError as error:
            raise CheckpointError(f"cannot be opened ({error.strerror})", file=self.path) from None
        except ValueError:
            raise CheckpointError("is not a path", file=repr(self.path)) from None
        self.size: int = self._status.st_size
        self.identity = (self._status.st_dev, self._status.st_ino)

    def fileno(self) -> int:
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises CheckpointError when they are not all there or unreadable."""
        self.check_holds(offset, length)
        chunks: list[bytes] = []
        while length:
            try:
                chunk = os.pread(self._fd, length, offset)
            except OSError as error:
                raise self.unreadable(error.strerror) from None
            if not chunk:
                raise self._shrunk()
            chunks.append(chunk)
            offset += len(chunk)
            length -= len(chunk)
        return b"".join(chunks)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills the buffer from `offset`. Raises as `read` does."""
        self.check_holds(offset, len(buffer))
        done = 0
        while done < len(buffer):
            try:
                n_bytes = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise self.unreadable(error.strerror) from None
            if not n_bytes:
                raise self._shrunk()
            done += n_bytes

    def _shrunk(self) -> CheckpointError:
        return CheckpointError("shrank while being read", file=self.path, fix="do not modify it during a run")

    def check_holds(self, offset: int, length: int) -> None:
        """Raises CheckpointError when the file ends before `length` bytes from `offset`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CheckpointError(
                "is truncated",
                file=self.path,
                found=f"{self.size} bytes",
                expected=f"at least {offset + length}",
                fix="download or copy it again",
            )

    def check_tensor(self, name: str, end: int) -> None:
        """Raises CheckpointError when the file ends before a tensor's data do. end: offset behind them."""
        if end > self.size:
            raise CheckpointError(
                "data runs past the end of the file",
                file=self.path,
                tensor=name,
                found=f"{self.size} bytes",
                expected=f"at least {end}",
                fix="download or copy it again",
            )

    def check_unchanged(self) -> None:
        """Raises CheckpointError if the file has been written to since it was opened."""
        try:
            now = os.fstat(self._fd)
        except OSError as error:
            raise self.unreadable(error.strerror) from None
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise self.changed()

    def changed(self) -> CheckpointError:
        return CheckpointError("changed while it was read", file=self.path, fix="do not modify it during a run")

    def unreadable(self, reason: str | None) -> CheckpointError:
        return CheckpointError(f"cannot be read ({reason})", file=self.path, fix="check the disk it is on")

    def unmappable(self, error: OSError) -> CheckpointError:
        if error.errno != errno.ENOMEM:
            return self.unreadable(error.strerror)
        return CheckpointError(
            "cannot be mapped into the address space of this process",
            file=self.path,
            expected=f"room for {self.size} bytes",
            fix="raise the limit (ulimit -v); mapped files take no memory",
        )

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        return f"FileStorage({self.path!r})"


@record
class ArrayStorage:
    """A C-contiguous array in memory, for the few small tensors that no file holds (rope_freqs)."""

    array: np.ndarray
    path: str = "memory"

    @property
    def size(self) -> int:
        return int(self.array.nbytes)


Storage = FileStorage | ArrayStorage


def input_changed(args: tuple[object, ...], storages: Iterable[Storage]) -> CheckpointError:
    """What to raise in the place of the native InputChanged with these args. storages: all that may be meant."""
    *identity, is_unreadable = args
    files = (storage for storage in storages if isinstance(storage, FileStorage))
    file = next(file for file in files if file.identity == tuple(identity))
    return file.unreadable(os.strerror(errno.EIO)) if is_unreadable else file.changed()
