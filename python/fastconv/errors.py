"""Errors that end in one clear line.

Every error says where (file, tensor), what was found, what was expected and what to do about it. Library code raises;
only the command line prints.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

LONGEST_NAME = 200
_LONGEST_PART = 1000


def printable(text: str) -> str:
    """A line of text as a terminal can show it: control characters and their like, which files from strangers may hold
    in names, are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


class FastconvError(Exception):
    """Bad input or a run that cannot succeed. The command line prints it as one line and exits with `exit_code`.

    what: the problem, without file and tensor names. file, tensor: where. found, expected: the two sides of the
    disagreement, in words or numbers. fix: what the user can do.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        file: str | os.PathLike[str] | None = None,
        tensor: str | None = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.file = None if file is None else os.fspath(file)
        self.tensor = tensor
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(self._line())

    def _line(self) -> str:
        # Names as they are: an odd one must be found again.
        where = [
            self.file if self.file != "" else "''",
            self.tensor and f"tensor {shortened(self.tensor, LONGEST_NAME)}",
        ]
        line = shortened(self.what, _LONGEST_PART)
        sides = [
            f"{label} {shortened(str(value), _LONGEST_PART) or repr('')}"
            for label, value in (("found", self.found), ("expected", self.expected))
            if value is not None
        ]
        if sides:
            line += f": {', '.join(sides)}"
        if self.fix:
            line += f"; {self.fix}"
        return ": ".join(printable(part) for part in (*where, " ".join(line.split())) if part)


class UsageError(FastconvError):
    """The command or call asks for something that does not exist or contradicts itself."""

    exit_code = 2


class CheckpointError(FastconvError):
    """A source file or model folder is missing, malformed or incomplete."""


class ArchitectureError(FastconvError):
    """The model's configuration or its set of tensors is not what its architecture says."""


class VocabularyError(FastconvError):
    """The tokenizer files are missing, malformed or do not fit the model."""


class AdapterError(FastconvError):
    """An adapter cannot be applied whole."""


class PlanError(FastconvError):
    """The asked conversion cannot be laid out: a type cannot hold a tensor, a format cannot hold the model."""


class NonFiniteError(FastconvError):
    """A weight is NaN or infinite, or overflows the type it is to be written in."""


class OutputError(FastconvError):
    """The target cannot be written: exists, no room, no permission."""


@contextlib.contextmanager
def system_errors_told() -> Iterator[None]:
    """Turns an OSError that nothing closer by could explain, of a failing disk say, into a FastconvError."""
    try:
        yield
    except OSError as error:
        raise FastconvError(f"the system refused a call ({error.strerror or error})", file=error.filename) from None
