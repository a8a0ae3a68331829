"""An output folder that appears whole: filled beside the target under a temporary name, then renamed.

In a folder that exists already the files take their names one by one, each whole; what else is there stays.
"""

from __future__ import annotations

import os
import shutil
from types import TracebackType

from fastconv.errors import OutputError
from fastconv.layout.output_file import PARTIAL_SUFFIX, sync_folder, write_error


class OutputFolder:
    """Use as a context manager: leaving without commit() removes what it made. Raises OutputError if it cannot."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._parent, name = os.path.split(self.path)
        self._temporary: str | None = None
        if not os.path.isdir(self.path):
            temporary = os.path.join(self._parent, f".{name}.{os.urandom(4).hex()}{PARTIAL_SUFFIX}")
            try:
                os.mkdir(temporary)
            except OSError as error:
                raise write_error(path, error) from None
            self._temporary = temporary

    def place(self, name: str) -> str:
        """Where a file of this name is written."""
        return os.path.join(self._temporary or self.path, name)

    def commit(self) -> None:
        """Take the final name, once all files have theirs. Raises OutputError if it came to be taken meanwhile."""
        if self._temporary is None:
            return
        try:
            os.rename(self._temporary, self.path)
            self._temporary = None
            sync_folder(self._parent)
        except OSError as error:
            if os.path.lexists(self.path) and self._temporary is not None:
                raise OutputError("appeared during the run", file=self.path, fix="run it again") from None
            raise write_error(self.path, error) from None

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
