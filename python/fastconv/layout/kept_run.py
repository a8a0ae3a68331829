"""A run that can be interrupted and resumed: its journal, and the unfinished outputs that belong to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType

from fastconv import _native
from fastconv.errors import OutputError
from fastconv.layout.kept_file import journal_path, remove_kept
from fastconv.layout.resume_journal import Facts, ResumeJournal


class KeptRun:
    """Outputs that are kept, with what is known of them. targets: the files and folders that take their names at last.

    Its context ends as ResumeJournal's.
    """

    def __init__(self, targets: Sequence[str], facts: Facts) -> None:
        self._targets = targets
        self._facts = facts
        self._journal = ResumeJournal(journal_path(targets[0]))
        self._note: str | None = None

    def open(self) -> None:
        """Takes over what an earlier run left, or removes it. Raises OutputError."""
        why = self._journal.open(self._facts)
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
        n_damaged = n_claimed - n_found
        were = "was" if n_damaged == 1 else "were"
        damaged = f", {n_damaged} {were} damaged and done again" if n_damaged else ""
        return f"resumed an interrupted run: {n_found} of {n_pieces} pieces were done{damaged}"

    def finish(self) -> None:
        """The outputs have their names."""
        # A folder that was missing when it was begun, and is there now, is not the one that was filled.
        with contextlib.suppress(OutputError):
            remove_kept(self._targets)
        self._journal.finish()

    def __enter__(self) -> KeptRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._journal.__exit__(kind, value, traceback)
