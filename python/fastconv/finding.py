"""A rule that a file breaks, told beside others that it breaks. What keeps a run from going on is raised instead."""

from __future__ import annotations

from fastconv.errors import FastconvError
from fastconv.record import record


@record(eq=True)
class Finding:
    """A rule that is broken, in words. tensor: where, None: the file as a whole."""

    what: str
    tensor: str | None = None
    found: str | None = None
    expected: str | None = None

    @classmethod
    def of(cls, error: FastconvError) -> Finding:
        """The same problem as an error that a reader raised."""
        found, expected = (None if side is None else str(side) for side in (error.found, error.expected))
        return cls(error.what, error.tensor, found, expected)

    def __str__(self) -> str:
        return str(FastconvError(self.what, tensor=self.tensor, found=self.found, expected=self.expected))
