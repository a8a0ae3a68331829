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
    """Leaving its context without commit() removes what open() made."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._parent, self._name = os.path.split(self.path)
        self._temporary: str | None = None

    def open(self) -> None:
        """Make the temporary folder, unless the folder exists. Raises OutputError if it cannot be made."""
        if os.path.isdir(self.path):
            return
        self._temporary = os.path.join(self._parent, f".{self._name}.{os.urandom(4).hex()}{PARTIAL_SUFFIX}")
        try:
            os.mkdir(self._temporary)
        except OSError as error:
            self._temporary = None
            raise write_error(self.path, error) from None

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
