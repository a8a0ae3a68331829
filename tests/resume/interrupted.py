"""Runs that stop where a test says, and what they leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import fastconv
from fastconv import _native, engine
from fastconv.conversion import ConversionResult
from fastconv.layout import resume_journal


@contextmanager
def stopping_after(n_pieces: int) -> Iterator[None]:
    """Runs write all, claim the first pieces that got done, and are interrupted."""

    class Stopping(_native.Run):
        is_over = False

        def wait(self, seconds: float) -> bool:
            if self.is_over:
                raise KeyboardInterrupt
            assert super().wait(60)
            self.is_over = True
            return False

        def take_finished(self) -> list[_native.FinishedChunk]:
            return super().take_finished()[:n_pieces]

    with mock.patch.object(engine._native, "Run", Stopping), mock.patch.object(resume_journal, "INTERVAL_SECONDS", 0.0):
        yield


def stop(n_pieces: int, source: Path, target: Path, **options: Any) -> None:
    """A conversion that claims n pieces and is interrupted."""
    with stopping_after(n_pieces):
        try:
            fastconv.convert(source, target, resume=True, **options)
        except KeyboardInterrupt:
            return
    raise AssertionError("the run was not interrupted")


def resume_note(result: ConversionResult) -> str:
    """What the result says of resuming, "" if nothing."""
    words = ("resumed an", "started afresh")
    return next((note for note in result.notes if note.startswith(words)), "")


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
