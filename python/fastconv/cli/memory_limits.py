"""What limits of memory (ulimit -v and -d, control groups) leave too little for, said before anything meets them.

Libraries behave badly where they are refused memory while they are loaded: OpenBLAS, which NumPy brings, asks for ever.
"""

from __future__ import annotations

import mmap
import resource

from fastconv.control_group import memory_room
from fastconv.errors import FastconvError

# Address space that a small conversion takes beyond what Python has taken when it starts: libraries most of all.
_NEEDED_BYTES = 192 << 20
# Memory that any conversion takes beyond that; the kernel ends a process in a control group that finds none.
_LEAST_BYTES = 16 << 20


def check_limits() -> None:
    """Get along with limits of this process. Inputs are mapped on top of what the program needs.

    Raises FastconvError where a limit leaves too little for that.
    """
    room = memory_room()
    if room is not None:
        room.check(_LEAST_BYTES, "fastconv")
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    limits = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    if not limits:
        return
    try:
        # Private: what is shared does not count as data.
        mmap.mmap(-1, _NEEDED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        raise FastconvError(
            "the limit of memory (ulimit -v or -d) is too low",
            found=f"{min(limits) >> 10} kB",
            expected=f"{_NEEDED_BYTES >> 10} kB more than Python takes, and the size of the inputs",
        ) from None
    # Loaded only now: it is itself among what needs the room.
    from fastconv import _native

    _native.share_one_arena()
