"""Whether something is there: unlike os.path, a disk that cannot say so is an error, not a no."""

from __future__ import annotations

import os
import stat


def exists(path: str | os.PathLike[str]) -> bool:
    """Raises OSError where the system cannot tell."""
    return _mode(path) is not None


def is_file(path: str | os.PathLike[str]) -> bool:
    """A regular file, or a link to one. Raises OSError where the system cannot tell."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """A folder, or a link to one. Raises OSError where the system cannot tell."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_path(text: str) -> bool:
    """Whether the system takes it for the name of a file: no null character, nothing that it cannot spell."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _mode(path: str | os.PathLike[str]) -> int | None:
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: no path at all
        return None
