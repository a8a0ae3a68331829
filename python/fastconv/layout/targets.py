"""The formats that --to names, behind one interface. A layout is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.spec import CanonicalModel
from fastconv.layout.laid_out import LaidOut
from fastconv.plan.ftype import FILE_TYPES, FileType
from fastconv.request import TARGETS
from fastconv.vocab.vocabulary import Vocabulary


class Layout(Protocol):
    """What a format decides: what "auto" means in it, which tensors only it has, and where everything stands."""

    def auto_type(self, kept: FileType) -> FileType:
        """The file type of --outtype auto, where `kept` would keep the input's precision."""

    def computed_tensors(self, model: CanonicalModel) -> dict[str, MergedTensor]:
        """Tensors that this format has and no checkpoint."""

    def lay_out(
        self,
        model: CanonicalModel,
        tensors: Mapping[str, MergedTensor],
        vocabulary: Vocabulary,
        file_type: FileType,
        *,
        pure: bool,
    ) -> LaidOut:
        """One file of these tensors (canonical names, interleaved rows). Raises PlanError for what it cannot hold."""


@dataclass(frozen=True, slots=True)
class Gguf:
    def auto_type(self, kept: FileType) -> FileType:
        return kept

    def computed_tensors(self, model: CanonicalModel) -> dict[str, MergedTensor]:
        from fastconv.layout import gguf

        return gguf.computed_tensors(model)

    def lay_out(
        self,
        model: CanonicalModel,
        tensors: Mapping[str, MergedTensor],
        vocabulary: Vocabulary,
        file_type: FileType,
        *,
        pure: bool,
    ) -> LaidOut:
        from fastconv.layout import gguf

        return gguf.lay_out(model, tensors, vocabulary, file_type, pure=pure)


@dataclass(frozen=True, slots=True)
class Ggjt:
    version: int

    def auto_type(self, kept: FileType) -> FileType:
        from fastconv.layout import ggjt

        return FILE_TYPES[ggjt.auto_outtype(kept.name)]

    def computed_tensors(self, model: CanonicalModel) -> dict[str, MergedTensor]:
        return {}

    def lay_out(
        self,
        model: CanonicalModel,
        tensors: Mapping[str, MergedTensor],
        vocabulary: Vocabulary,
        file_type: FileType,
        *,
        pure: bool,
    ) -> LaidOut:
        from fastconv.layout import ggjt

        return ggjt.lay_out(model, tensors, vocabulary, file_type, self.version, pure=pure)


def layout_of(target: str) -> Layout:
    """The layout of a value of --to."""
    kind, version = TARGETS[target]
    return Gguf() if kind == "gguf" else Ggjt(version)
