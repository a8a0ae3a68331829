"""All outputs of a run take their names together, or none does."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence

from fastconv.errors import OutputError
from fastconv.layout.output_file import OutputFile
from fastconv.layout.output_folder import OutputFolder


def commit_all(files: Sequence[OutputFile], folders: Sequence[OutputFolder] = ()) -> list[str]:
    """Give whole, synced outputs their final names. Returns notes on what could not be made sure of.

    Raises OutputError if one of them cannot have its name; then every name holds what it held before, unless the disk
    takes no names back either, or cannot exchange two in one step. Once all have theirs nothing fails any more.
    """
    new = {folder.temporary for folder in folders}
    for file in files:
        if file.folder in new:  # not final yet: it goes if the folder goes
            file.commit()
            file.finish()
    outputs: list[OutputFile | OutputFolder] = [*(file for file in files if file.folder not in new), *folders]
    _commit(outputs)
    synced = dict.fromkeys(output.folder for output in outputs if output.is_synced)
    return [note for folder in synced for note in _sync(folder)]


def _commit(outputs: Sequence[OutputFile | OutputFolder]) -> None:
    begun: list[OutputFile | OutputFolder] = []
    with _signals_held():
        try:
            for output in outputs:
                begun.append(output)
                output.commit(may_revert=len(outputs) > 1)
        except BaseException as error:
            replaced = [output.path for output in reversed(begun) if not _is_reverted(output)]
            if not replaced:
                raise
            # A disk that stops to take names at all.
            raise OutputError(f"{error}; replaced already, by whole files: {', '.join(replaced)}") from None
        for output in outputs:
            output.finish()


def _is_reverted(output: OutputFile | OutputFolder) -> bool:
    try:
        return output.revert()
    except OSError:
        return False


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Ctrl-C and the like come before or after the block, which takes milliseconds."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _sync(folder: str) -> Iterator[str]:
    try:
        sync_folder(folder)
    except OSError as error:
        yield f"{folder} cannot be synced ({error.strerror}): a power failure soon may bring older files back"


def sync_folder(folder: str) -> None:
    """Wait until the names in a folder are on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
