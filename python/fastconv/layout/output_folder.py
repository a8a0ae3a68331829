"""An output folder that appears whole: filled beside the target under a temporary name, then renamed.

In a folder that exists already the files take their names one by one, each whole; what else is there stays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from types import TracebackType

from fastconv.errors import OutputError
from fastconv.layout.kept_file import KEPT_SUFFIX, check_owner, is_resumable, kept_name
from fastconv.layout.leftovers import lock, remove_leftovers, temporary_name
from fastconv.layout.output_file import write_error
from fastconv.layout.rename import rename_new
from fastconv.layout.sha256_file import SUFFIX
from fastconv.paths import is_folder


class OutputFolder:
    """Leaving its context without commit() removes what open() made."""

    def __init__(self, path: str, *, is_kept: bool = False, is_synced: bool = True) -> None:
        self.path = os.path.abspath(path)
        self.folder, self._name = os.path.split(self.path)
        self._is_kept = is_kept
        self.is_synced = is_synced
        self._temporary: str | None = None
        self._names: list[str] = []
        self._fd = -1
        self._is_committed = False

    @property
    def temporary(self) -> str | None:
        """The folder that its files come to their place with, where the target does not exist; known after open()."""
        return self._temporary

    def open(self) -> None:
        """Make the temporary folder, unless the folder exists. Raises OutputError if it cannot be made."""
        remove_leftovers(self.folder, self._name)
        try:
            if is_folder(self.path):
                return remove_leftovers(self.path)
            if self._is_kept:
                return self._open_kept()
            while self._fd < 0:
                self._temporary = os.path.join(self.folder, temporary_name(self._name))
                os.mkdir(self._temporary)
                with contextlib.suppress(FileNotFoundError):
                    self._fd = os.open(self._temporary, os.O_RDONLY | os.O_CLOEXEC)
                if self._fd >= 0 and not lock(self._fd):
                    self._close()
        except OSError as error:
            raise write_error(self.path, error) from None

    def _open_kept(self) -> None:
        self._temporary = kept_name(self.path)
        is_new = os.path.islink(self._temporary) or not os.path.isdir(self._temporary)
        if is_new:
            os.mkdir(self._temporary)
        self._fd = os.open(self._temporary, os.O_RDONLY | os.O_CLOEXEC)
        if not is_new:
            check_owner(self._temporary, os.fstat(self._fd))
        remove_leftovers(self._temporary)
        # Files that had their names already when the run was interrupted are unfinished again.
        for entry in list(os.scandir(self._temporary)):
            if entry.name.endswith(SUFFIX):
                os.unlink(entry.path)
            elif not entry.name.endswith(KEPT_SUFFIX):
                os.replace(entry.path, kept_name(entry.path))

    def place(self, name: str) -> str:
        """Where a file of this name is written."""
        self._names.append(name)
        return os.path.join(self._temporary or self.path, name)

    def commit(self, *, may_revert: bool) -> None:
        """Take the final name, once all files have theirs. Raises OutputError if it came to be taken meanwhile."""
        if self._temporary is None:
            return
        try:
            if self.is_synced:
                os.fsync(self._fd)
            rename_new(self._temporary, self.path)
            self._is_committed = True
        except FileExistsError:
            raise OutputError("appeared during the run", file=self.path, fix="run it again") from None
        except OSError as error:
            raise write_error(self.path, error) from None

    def revert(self) -> bool:
        """Give the name up again, so that the folder is removed. True once it is; raises OSError."""
        if self._is_committed and self._temporary is not None:
            os.rename(self.path, self._temporary)
            self._is_committed = False
        return True

    def finish(self) -> None:
        """Leave the folder be, after commit()."""
        self._temporary = None
        self._close()

    def _close(self) -> None:
        # Forgotten first: Ctrl-C between the two must not have it closed twice.
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._temporary is not None and not self._is_committed and not (self._is_kept and is_resumable(kind)):
            self._remove(self._temporary)
        self.finish()

    def _remove(self, temporary: str) -> None:
        # Without opening it, for there may be no descriptor left, or the disk may not be read any more.
        for name in self._names:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(temporary, name))
        try:
            os.rmdir(temporary)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
