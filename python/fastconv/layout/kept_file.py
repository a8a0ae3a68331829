"""What outlives an interrupted run under names that the next run knows, so that one process at a time may have it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Sequence

from fastconv.errors import FastconvError, OutputError

KEPT_SUFFIX = ".resume-partial"
"""Of unfinished outputs that a later run may go on with."""
JOURNAL_SUFFIX = ".resume"


def kept_name(path: str) -> str:
    """Where an unfinished file or folder is kept until the run that resumes it."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(folder, f".{name}{KEPT_SUFFIX}")


def is_resumable(kind: type[BaseException] | None) -> bool:
    """Whether a run that ended so can go on: not where its input is at fault, for then it must change."""
    return kind is None or not issubclass(kind, FastconvError) or issubclass(kind, OutputError)


def open_locked(path: str) -> int:
    """A descriptor, for reading and writing, of a file that is made where it is missing.

    The lock is held until the descriptor is closed. Raises OutputError where another process holds it, or where it is
    no file that a run of this user left; OSError where the file cannot be made, read or locked.
    """
    while True:
        descriptor, is_new = _opened(path)
        if descriptor < 0:
            continue
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OutputError("is no regular file", file=path, fix="remove it")
            if not is_new:
                check_owner(path, status)
            _lock(descriptor, path)
            # Whoever held it may have removed it meanwhile; and a second name would be another file's.
            if _is_at(path, descriptor) and os.fstat(descriptor).st_nlink == 1:
                return descriptor
            if _is_at(path, descriptor):
                os.unlink(path)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def check_owner(path: str, status: os.stat_result) -> None:
    """Raises OutputError for what another user left: they could write to it at any time, later too."""
    if status.st_uid != os.geteuid():
        raise OutputError("belongs to another user", file=path, fix="remove it, or write elsewhere")


def _opened(path: str) -> tuple[int, bool]:
    """A descriptor, -1 if the file was removed on the way, and whether the file is new. Raises OutputError, OSError."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    with contextlib.suppress(FileExistsError):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
    try:
        return os.open(path, flags), False
    except FileNotFoundError:
        return -1, False
    except OSError as error:
        fix = "remove it, or write elsewhere"
        raise OutputError(f"cannot be resumed from ({error.strerror})", file=path, fix=fix) from None


def unlink_locked(path: str, descriptor: int) -> None:
    """Removes the name of a file that is held, if it still is that file's. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        if _is_at(path, descriptor):
            os.unlink(path)


def _lock(descriptor: int, path: str) -> None:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError("another run is writing it", file=path, fix="wait for its end") from None


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


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

    Raises OutputError where another run is at one of them, or it cannot be read.
    """
    for path in dict.fromkeys(kept_name(target) for target in targets):
        if os.path.isdir(path) and not os.path.islink(path):
            for entry in _entries(path):
                os.close(_held(os.path.join(path, entry)))
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.lexists(path):
            _remove(path)


def _inside(target: str, folder: str) -> str:
    return kept_name(os.path.join(kept_name(folder), os.path.basename(target)))


def _remove(path: str) -> None:
    descriptor = _held(path)
    unlink_locked(path, descriptor)
    os.close(descriptor)


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError as error:
        raise OutputError(f"cannot be removed ({error.strerror})", file=path) from None


def _held(path: str) -> int:
    try:
        return open_locked(path)
    except OSError as error:
        raise OutputError(f"cannot be removed ({error.strerror})", file=path) from None
