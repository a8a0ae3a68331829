"""The formats that --to names, behind one record. A layout is imported when it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.spec import CanonicalModel
from fastconv.layout.laid_out import LaidOut
from fastconv.plan.ftype import FILE_TYPES, FileType
from fastconv.request import TARGETS


@dataclass(frozen=True, slots=True)
class Layout:
    """What a format decides.

    lay_out: (model, tensors by canonical name, rows interleaved, vocabulary, file type, *, pure) -> the file; raises
    PlanError for what it cannot hold. computed_tensors: those that this format has and no checkpoint. auto_type: what
    --outtype auto means, given the file type that would keep the input's precision.
    """

    lay_out: Callable[..., LaidOut]
    computed_tensors: Callable[[CanonicalModel], dict[str, MergedTensor]]
    auto_type: Callable[[FileType], FileType]


def layout_of(target: str) -> Layout:
    """The layout of a value of --to."""
    kind, version = TARGETS[target]
    if kind == "gguf":
        from fastconv.layout import gguf

        return Layout(gguf.lay_out, gguf.computed_tensors, lambda kept: kept)
    from fastconv.layout import ggjt

    return Layout(
        functools.partial(ggjt.lay_out, version=version),
        lambda model: {},
        lambda kept: FILE_TYPES[ggjt.auto_outtype(kept.name)],
    )
