"""How the command line speaks: results to standard output, all of them or an error; what is wrong to standard error."""

from __future__ import annotations

import contextlib
import sys

from fastconv.errors import OutputError


def say(text: str, *, fix: str | None = None) -> None:
    """Print a result, and have the system take it before anything else is done.

    fix: what the user should know where that fails. Raises OutputError then, and BrokenPipeError where nobody reads on.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise OutputError(what, file="standard output", fix=fix) from None


def complain(line: str) -> None:
    """Print what went wrong; where nobody can be told, the exit code has to do."""
    with contextlib.suppress(OSError):
        print(f"fastconv: {line}", file=sys.stderr, flush=True)


def let_go() -> None:
    """At the end of the process: what a stream could not take Python would try again, and say so its own way."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # closed by the caller
            continue
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                stream.close()
