"""Temporary files and folders: their names, and the lock that tells those of live runs from what dead ones left.

Whoever makes a temporary locks it (flock) before anything else. The system drops the lock however a process ends, so
what can be locked belongs to nobody and is removed by the next run to the same target. Where a file system has no
locks, leftovers stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator

_SUFFIX = ".fastconv-partial"
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}" + re.escape(_SUFFIX), re.DOTALL)


def temporary_name(name: str) -> str:
    """A name beside `name` that nothing else has."""
    return f".{name}.{os.urandom(4).hex()}{_SUFFIX}"


def lock(descriptor: int) -> bool:
    """Mark a temporary as in use until the descriptor is closed. False if it was just taken for a leftover."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks here: nobody removes it either
    return os.fstat(descriptor).st_nlink > 0


def remove_leftovers(folder: str, name: str | None = None) -> None:
    """Remove what dead runs left in a folder. name: of their target, None for any. What cannot be removed stays."""
    for path in _leftovers(folder, name):
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)


def leftover_bytes(folder: str, name: str | None = None) -> int:
    """Room on the disk that remove_leftovers() would free."""
    paths = list(_leftovers(folder, name))
    inside = (os.path.join(path, name) for path in paths if os.path.isdir(path) for name in os.listdir(path))
    total = 0
    for path in (*paths, *inside):
        with contextlib.suppress(OSError):
            total += os.lstat(path).st_blocks * 512
    return total


def _leftovers(folder: str, name: str | None) -> Iterator[str]:
    """Those that nobody has locked; each is locked while it is looked at."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for found in names:
        match = _TEMPORARY.fullmatch(found)
        if match is None or name not in (None, match[1]):
            continue
        path = os.path.join(folder, found)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        except OSError:
            continue
        finally:
            os.close(descriptor)
