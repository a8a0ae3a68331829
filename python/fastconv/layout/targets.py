"""The formats that --to names: a class each, asked the same questions. A layout is imported when it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic

from fastconv.adapter.attach import Model
from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.hparams import Given
from fastconv.architecture.spec import CanonicalModel, NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.layout.laid_out import LaidOut
from fastconv.layout.provenance import provenance
from fastconv.plan.file_types import FILE_TYPES, KEPT, FileType
from fastconv.plan.recipe import Recipe
from fastconv.plan.row_order import interleaved
from fastconv.record import record
from fastconv.request import TARGETS, ConvertRequest
from fastconv.vocab.vocabulary import Vocabulary


@record
class Contents(Generic[Model]):
    """What files are made of. model: after its adapters. tensors: by canonical name, with deltas, rows in the format's
    order. vocabulary: None where the format's files hold none."""

    model: Model
    tensors: Mapping[str, MergedTensor]
    vocabulary: Vocabulary | None


class Layout(ABC, Generic[Model]):
    """What a format decides of one conversion. has_vocabulary: whether its files hold one."""

    has_vocabulary = False

    def __init__(self, request: ConvertRequest, source: Checkpoint) -> None:
        self.request = request
        self.source = source

    @abstractmethod
    def open_model(self) -> Model:
        """The source as the format needs it. Raises a FastconvError where it cannot be had so."""

    def arrange(self, model: Model, tensors: dict[str, MergedTensor]) -> dict[str, MergedTensor]:
        """tensors (by canonical name) in the format's row order, and those that it has and no checkpoint."""
        return tensors

    @abstractmethod
    def lay_out(self, contents: Contents[Model], file_type: FileType, recipe: Recipe) -> tuple[LaidOut, ...]:
        """The files, of a folder if they have names. Raises PlanError for what the format cannot hold."""

    def auto_type(self, kept: FileType) -> FileType:
        """What --outtype auto means. kept: the file type that would keep the input's precision."""
        return kept


def layout_for(request: ConvertRequest, source: Checkpoint) -> Layout[Any]:
    """The layout that --to names, for this source."""
    kind = _GgufCarried if request.layout == source.format == "gguf" else _LAYOUTS[request.layout]
    return kind(request, source)


class _Canonical(Layout[CanonicalModel]):
    """Formats that need a table of the architecture."""

    has_vocabulary = True

    def open_model(self) -> CanonicalModel:
        return _canonical(self.source, self.request)

    def arrange(self, model: CanonicalModel, tensors: dict[str, MergedTensor]) -> dict[str, MergedTensor]:
        return interleaved(model, tensors)


class _Gguf(_Canonical):
    def arrange(self, model: CanonicalModel, tensors: dict[str, MergedTensor]) -> dict[str, MergedTensor]:
        from fastconv.layout.gguf import computed_tensors

        return computed_tensors(model) | super().arrange(model, tensors)

    def lay_out(self, contents: Contents[CanonicalModel], file_type: FileType, recipe: Recipe) -> tuple[LaidOut, ...]:
        from fastconv.layout.gguf import lay_out

        assert contents.vocabulary is not None
        made_by = provenance(self.request)
        model, tensors, vocabulary = contents.model, contents.tensors, contents.vocabulary
        return (lay_out(model, tensors, vocabulary, file_type, recipe=recipe, provenance=made_by),)


class _Ggjt(_Canonical):
    def lay_out(self, contents: Contents[CanonicalModel], file_type: FileType, recipe: Recipe) -> tuple[LaidOut, ...]:
        from fastconv.layout.ggjt import lay_out

        assert contents.vocabulary is not None
        model, tensors, vocabulary = contents.model, contents.tensors, contents.vocabulary
        return (lay_out(model, tensors, vocabulary, file_type, self._version, recipe=recipe),)

    def auto_type(self, kept: FileType) -> FileType:
        from fastconv.layout.ggjt import auto_outtype

        return FILE_TYPES[auto_outtype(kept.name, self._version)]

    @property
    def _version(self) -> int:
        return TARGETS[self.request.to][1]


class _GgufCarried(Layout[NamedModel]):
    """GGUF to GGUF: nothing needs a table of the architecture but adapters, which go by canonical names."""

    def open_model(self) -> NamedModel:
        from fastconv.layout.gguf_carried import as_stored, check_request

        check_request(self.request)
        return _canonical(self.source, self.request) if self.request.adapters else as_stored(self.source)

    def arrange(self, model: NamedModel, tensors: dict[str, MergedTensor]) -> dict[str, MergedTensor]:
        from fastconv.layout.gguf_carried import arranged

        return arranged(self.source, model, tensors)

    def lay_out(self, contents: Contents[NamedModel], file_type: FileType, recipe: Recipe) -> tuple[LaidOut, ...]:
        from fastconv.layout.gguf_carried import lay_out

        return (lay_out(self.source, contents.tensors, file_type, self.request, recipe),)

    def auto_type(self, kept: FileType) -> FileType:
        from fastconv.layout.gguf_carried import kept_file_type

        return kept_file_type(self.source)


class _Hf(Layout[NamedModel]):
    def open_model(self) -> NamedModel:
        return _named(self.source, self.request)

    def lay_out(self, contents: Contents[NamedModel], file_type: FileType, recipe: Recipe) -> tuple[LaidOut, ...]:
        from fastconv.layout.hf import lay_out

        return lay_out(self.source, contents.model, contents.tensors, file_type, self.request)

    def auto_type(self, kept: FileType) -> FileType:
        return KEPT if kept.is_float else FILE_TYPES["f16"]


class _LitGpt(_Hf):
    def open_model(self) -> NamedModel:
        from fastconv.architecture.litgpt.gemma3 import text_checkpoint

        return _named(text_checkpoint(self.source), self.request)

    def arrange(self, model: NamedModel, tensors: dict[str, MergedTensor]) -> dict[str, MergedTensor]:
        from fastconv.layout.litgpt import arranged

        return arranged(model, tensors, self.request.litgpt_layout)

    def lay_out(self, contents: Contents[NamedModel], file_type: FileType, recipe: Recipe) -> tuple[LaidOut, ...]:
        from fastconv.layout.litgpt import lay_out

        return lay_out(self.source, contents.model, contents.tensors, file_type, self.request)


_LAYOUTS: dict[str, type[Layout[Any]]] = {"gguf": _Gguf, "ggjt": _Ggjt, "hf": _Hf, "litgpt": _LitGpt}


def given_by(request: ConvertRequest) -> Given:
    """What the user says of the source."""
    return Given(request.n_ctx, request.rms_eps, request.rope_base, request.model_name, bool(request.adapters))


def _canonical(source: Checkpoint, request: ConvertRequest) -> CanonicalModel:
    from fastconv.architecture.canonical import canonical_model

    return canonical_model(source, given_by(request))


def _named(source: Checkpoint, request: ConvertRequest) -> NamedModel:
    from fastconv.architecture.named import named_model

    return named_model(source, given_by(request))
