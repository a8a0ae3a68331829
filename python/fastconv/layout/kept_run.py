"""A run that can be interrupted and resumed: its journal, and the unfinished outputs that belong to it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from types import TracebackType

from fastconv import _native
from fastconv.errors import OutputError
from fastconv.layout.kept_file import kept_name, open_locked, unlink_locked
from fastconv.layout.resume_journal import JOURNAL_SUFFIX, Facts, ResumeJournal


def journal_path(target: str) -> str:
    """Of the run whose first output, a file or a folder, this is."""
    folder, name = os.path.split(os.path.abspath(target))
    return os.path.join(folder, f".{name}{JOURNAL_SUFFIX}")


def kept_bytes(target: str, folder: str | None) -> int:
    """Room on the disk that an unfinished output takes, which a run that resumes it needs no more."""
    for path in (kept_name(target), *([] if folder is None else [_inside(target, folder)])):
        with contextlib.suppress(OSError):
            return os.lstat(path).st_blocks * 512
    return 0


def forget_kept(targets: Sequence[str]) -> None:
    """Removes what interrupted runs left of outputs that are complete now, unless another run is at it."""
    with contextlib.suppress(OutputError):
        if os.path.lexists(journal_path(targets[0])):
            remove_kept(targets)
            _remove(journal_path(targets[0]))


def remove_kept(targets: Sequence[str]) -> None:
    """Removes the unfinished outputs, files or folders, of interrupted runs.

    Raises OutputError where another run is at one of them.
    """
    for path in dict.fromkeys(kept_name(target) for target in targets):
        if os.path.isdir(path) and not os.path.islink(path):
            for entry in os.scandir(path):
                os.close(_held(entry.path))
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.lexists(path):
            _remove(path)


class KeptRun:
    """Outputs that are kept, with what is known of them. targets: the files and folders that take their names at last.

    note: what came of the earlier run, one line, None where there was none. Its context ends as ResumeJournal's.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = targets
        self._journal = ResumeJournal(journal_path(targets[0]))
        self._note: str | None = None

    def open(self, facts: Facts) -> None:
        """Takes over what an earlier run left, or removes it. Raises OutputError."""
        why = self._journal.open(facts)
        if why is not None:
            self._note = f"started afresh instead of resuming: {why}"
        if not self._journal.claims:
            remove_kept(self._targets)

    @property
    def claims(self) -> Sequence[_native.FinishedChunk]:
        """What the files are said to hold."""
        return self._journal.claims

    def begin(self, descriptors: Sequence[int]) -> None:
        """Once the output files are open. Raises OutputError."""
        try:
            self._journal.begin(descriptors)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", file=self._journal.path) from None

    def keep(self, take: Callable[[], list[_native.FinishedChunk]], *, now: bool = False) -> None:
        """Now and then, and with `now` at the end: makes sure that what was written need not be done again.

        Raises OSError.
        """
        self._journal.keep(take, now=now)

    def note(self, n_found: int, n_pieces: int) -> str | None:
        """One line for the user: n_found of n_pieces were what they were said to be."""
        n_claimed = len({claim.chunk for claim in self.claims})
        if n_claimed == 0:
            return self._note
        damaged = f", {n_claimed - n_found} were damaged and done again" if n_found < n_claimed else ""
        return f"resumed an interrupted run: {n_found} of {n_pieces} pieces were done{damaged}"

    def finish(self) -> None:
        """The outputs have their names."""
        self._journal.finish()

    def __enter__(self) -> KeptRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._journal.__exit__(kind, value, traceback)


def _inside(target: str, folder: str) -> str:
    return kept_name(os.path.join(kept_name(folder), os.path.basename(target)))


def _remove(path: str) -> None:
    descriptor = _held(path)
    unlink_locked(path, descriptor)
    os.close(descriptor)


def _held(path: str) -> int:
    try:
        return open_locked(path)
    except OSError as error:
        raise OutputError(f"cannot be removed ({error.strerror})", file=path) from None
