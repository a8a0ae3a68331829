"""The formats that --to names, behind one record. A layout is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.spec import CanonicalModel, NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.layout.laid_out import LaidOut
from fastconv.layout.provenance import provenance
from fastconv.plan.file_types import FILE_TYPES, KEPT, FileType
from fastconv.plan.naming import interleaved
from fastconv.plan.recipe import Recipe
from fastconv.record import record
from fastconv.request import TARGETS, ConvertRequest
from fastconv.vocab.vocabulary import Vocabulary


@record
class Layout:
    """What a format decides.

    open_model: the checkpoint as the format needs it. has_vocabulary: it holds one. arrange: (model, tensors by
    canonical name) -> tensors in the format's row order, those included that it has and no checkpoint. lay_out: (model,
    arranged tensors, vocabulary or None, file type, request, recipe) -> the files, of a folder if they have names;
    raises PlanError for what it cannot hold. auto_type: what --outtype auto means, given the file type that would keep
    the input's precision.
    """

    open_model: Callable[[Checkpoint, ConvertRequest], NamedModel]
    has_vocabulary: bool
    arrange: Callable[[Any, dict[str, MergedTensor]], dict[str, MergedTensor]]
    lay_out: Callable[
        [Any, Mapping[str, MergedTensor], Vocabulary | None, FileType, ConvertRequest, Recipe], tuple[LaidOut, ...]
    ]
    auto_type: Callable[[FileType], FileType]


def layout_for(request: ConvertRequest, checkpoint: Checkpoint) -> Layout:
    """The layout that --to names, for this source."""
    kind = TARGETS[request.to][0]
    return _gguf_carried(checkpoint) if kind == checkpoint.format == "gguf" else _LAYOUTS[kind](request, checkpoint)


def _canonical(checkpoint: Checkpoint, request: ConvertRequest) -> CanonicalModel:
    from fastconv.architecture.canonical import canonical_model

    return canonical_model(checkpoint, request.n_ctx, **_source_options(request))


def _gguf(request: ConvertRequest, source: Checkpoint) -> Layout:
    from fastconv.layout import gguf

    return Layout(
        _canonical,
        True,
        lambda model, tensors: gguf.computed_tensors(model) | interleaved(model, tensors),
        lambda model, tensors, vocabulary, file_type, request, recipe: (
            gguf.lay_out(
                model, tensors, _present(vocabulary), file_type, recipe=recipe, provenance=provenance(request)
            ),
        ),
        lambda kept: kept,
    )


def _gguf_carried(source: Checkpoint) -> Layout:
    """GGUF to GGUF: nothing needs a table of the architecture but adapters, which go by canonical names."""
    from fastconv.layout import gguf_carried

    def open_model(checkpoint: Checkpoint, request: ConvertRequest) -> NamedModel:
        gguf_carried.check_request(request)
        return _canonical(checkpoint, request) if request.adapters else gguf_carried.as_stored(checkpoint)

    return Layout(
        open_model,
        False,
        lambda model, tensors: gguf_carried.arranged(source, model, tensors),
        lambda model, tensors, vocabulary, file_type, request, recipe: (
            gguf_carried.lay_out(source, tensors, file_type, request, recipe),
        ),
        lambda kept: gguf_carried.kept_file_type(source),
    )


def _ggjt(request: ConvertRequest, source: Checkpoint) -> Layout:
    from fastconv.layout import ggjt

    version = TARGETS[request.to][1]

    return Layout(
        _canonical,
        True,
        interleaved,
        lambda model, tensors, vocabulary, file_type, request, recipe: (
            ggjt.lay_out(model, tensors, _present(vocabulary), file_type, version, recipe=recipe),
        ),
        lambda kept: FILE_TYPES[ggjt.auto_outtype(kept.name, version)],
    )


def _named(checkpoint: Checkpoint, request: ConvertRequest) -> NamedModel:
    from fastconv.architecture.named import named_model

    return named_model(checkpoint, request.n_ctx, **_source_options(request))


def _hf(request: ConvertRequest, source: Checkpoint) -> Layout:
    from fastconv.layout import hf

    return Layout(
        _named,
        False,
        lambda model, tensors: tensors,
        lambda model, tensors, vocabulary, file_type, request, recipe: hf.lay_out(
            source, model, tensors, file_type, request
        ),
        lambda kept: KEPT if kept.is_float else FILE_TYPES["f16"],
    )


def _litgpt(request: ConvertRequest, source: Checkpoint) -> Layout:
    from fastconv.architecture.litgpt.gemma3 import text_checkpoint
    from fastconv.layout import litgpt

    return Layout(
        lambda checkpoint, request: _named(text_checkpoint(checkpoint), request),
        False,
        lambda model, tensors: litgpt.arranged(model, tensors, request.litgpt_layout),
        lambda model, tensors, vocabulary, file_type, request, recipe: litgpt.lay_out(
            source, model, tensors, file_type, request
        ),
        lambda kept: KEPT if kept.is_float else FILE_TYPES["f16"],
    )


_LAYOUTS: dict[str, Callable[[ConvertRequest, Checkpoint], Layout]] = {
    "gguf": _gguf,
    "ggjt": _ggjt,
    "hf": _hf,
    "litgpt": _litgpt,
}


def _source_options(request: ConvertRequest) -> dict[str, Any]:
    """What the user says of the source, by the names of canonical_model's arguments."""
    return {
        "norm_eps": request.rms_eps,
        "rope_base": request.rope_base,
        "model_name": request.model_name,
        "has_lora": bool(request.adapters),
    }


def _present(vocabulary: Vocabulary | None) -> Vocabulary:
    assert vocabulary is not None
    return vocabulary
