"""Sends what has been written on to the disk while more is computed, so that little is left for the final sync."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import TracebackType

# Between two rounds: enough for the disk to be busy, and for pages to be written whole.
_INTERVAL_SECONDS = 0.03


class WriteBack:
    """Syncs files in turn, in a thread of its own, from entering to leaving the context.

    descriptors: files being written by others. The system reports a failed write to one caller only: leaving raises
    the OSError that a sync here met.
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._descriptors = tuple(descriptors)
        self._done = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="write-back", daemon=True)

    def _work(self) -> None:
        sync = getattr(os, "fdatasync", os.fsync)
        try:
            while not self._done.wait(_INTERVAL_SECONDS):
                for descriptor in self._descriptors:
                    sync(descriptor)
        except OSError as error:
            self._error = error

    def __enter__(self) -> WriteBack:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error
