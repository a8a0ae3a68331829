"""The bar that a terminal sees while bytes are read; elsewhere there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from fastconv.engine import Progress

Result = TypeVar("Result")


def is_terminal(stream: TextIO | None) -> bool:
    """None: the stream was closed before the program began."""
    return stream is not None and stream.isatty()


def with_bar(work: Callable[[Progress | None], Result], *, hidden: bool) -> Result:
    """What work returns, called with a function to tell it (bytes done, bytes in all), None where no bar is shown."""
    if hidden or not is_terminal(sys.stderr):
        return work(None)
    from tqdm import tqdm

    with tqdm(total=0, unit="B", unit_scale=True, leave=False, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return work(progress)
