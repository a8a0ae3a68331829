"""Renaming that loses nothing on the way: in one step where the system can, in two where it cannot."""

from __future__ import annotations

import errno
import os

from fastconv import _native

_NOT_IN_ONE_STEP = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def rename_new(old: str, new: str) -> None:
    """Give a file or folder a name that nothing has. Raises FileExistsError if it is taken, or another OSError."""
    try:
        return _native.rename_new(os.fsencode(old), os.fsencode(new))
    except OSError as error:
        if error.errno not in _NOT_IN_ONE_STEP:
            raise
    if not os.path.isdir(old):
        # A hard link fails where the name exists: no window between a check and the rename.
        try:
            os.link(old, new)
        except FileExistsError:
            raise
        except OSError:
            pass
        else:
            return os.unlink(old)
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    os.rename(old, new)


def exchange(one: str, other: str) -> bool:
    """Give each the other's name; False where that takes more than one step. Raises OSError."""
    try:
        _native.exchange_names(os.fsencode(one), os.fsencode(other))
    except OSError as error:
        if error.errno not in _NOT_IN_ONE_STEP:
            raise
        return False
    return True
