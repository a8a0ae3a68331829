"""A GGUF file made from a GGUF file: every tensor and key carried over, as llama-quantize does, whatever the model.

Source: llama.cpp b11434, src/llama-quant.cpp (llama_model_quantize_impl) and ggml/src/gguf.cpp (gguf_set_kv). Knows no
tables of architectures; reads no tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture import gguf_rules
from fastconv.architecture.gguf_keys import gguf_names
from fastconv.architecture.spec import CanonicalModel, NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.gguf_array import GgufArray
from fastconv.errors import AdapterError, CheckpointError, UsageError
from fastconv.layout.gguf import ALIGNMENT, assembled
from fastconv.layout.gguf_metadata import KeyValues, add_imatrix
from fastconv.layout.laid_out import LaidOut
from fastconv.layout.provenance import provenance
from fastconv.plan.file_types import FILE_TYPES, KEPT, FileType, todays_type
from fastconv.plan.mixtures import ModelFacts
from fastconv.plan.recipe import Recipe, UnquantizedTensor, ggml_shape, quantizer_order, tensor_types
from fastconv.plan.row_order import interleaved
from fastconv.request import ConvertRequest
from fastconv.types import TYPES

_ARCHITECTURE = "general.architecture"
_FILE_TYPE = "general.file_type"
_QUANTIZATION_VERSION = "general.quantization_version"
_ALIGNMENT = "general.alignment"
_SPLIT = ("split.no", "split.count", "split.tensors.count")
_MOST_TOLD = 8


def check_request(request: ConvertRequest) -> None:
    """Raises UsageError for options that only make sense where the vocabulary is read anew."""
    for option, value in (("--vocab-dir", request.vocab_dir), ("--vocabtype", request.vocab_kind)):
        if value is not None:
            raise UsageError(f"{option} does not go with a GGUF file as source: its vocabulary is carried over")


def as_stored(checkpoint: Checkpoint) -> NamedModel:
    """The file's tensors by their own names and in their own order of rows: all that is needed without adapters.

    Raises CheckpointError for a file of something else, such as an importance matrix.
    """
    _architecture(checkpoint)
    return NamedModel(tensors=checkpoint.tensors, directory=checkpoint.directory, config={}, source_names={})


def kept_file_type(checkpoint: Checkpoint) -> FileType:
    """What --outtype auto means: every tensor keeps its type. The name is what the file says of itself."""
    from gguf.constants import LlamaFileType

    stated = checkpoint.metadata.get(_FILE_TYPE)
    names = {int(LlamaFileType[file_type.gguf_name]): file_type.name for file_type in FILE_TYPES.values()}
    return replace(KEPT, name=names.get(stated if isinstance(stated, int) else -1, KEPT.name))


def arranged(checkpoint: Checkpoint, model: NamedModel, tensors: Mapping[str, MergedTensor]) -> dict[str, MergedTensor]:
    """All tensors of the file by their own names, those of `tensors` (canonical names) in place of their sources.

    Raises AdapterError where adapters changed the vocabulary, which stays as it is.
    """
    found = {name: MergedTensor(tensor) for name, tensor in checkpoint.tensors.items()}
    if not isinstance(model, CanonicalModel):
        return found
    n_tokens = checkpoint.tensors["token_embd.weight"].shape[0]
    if model.hparams.n_vocab != n_tokens:
        raise AdapterError(
            "an adapter changes the vocabulary, which a GGUF file carries with it",
            file=checkpoint.path,
            found=f"{model.hparams.n_vocab} tokens",
            expected=n_tokens,
            fix="convert the Hugging Face model, with the adapter's tokenizer beside it",
        )
    names = gguf_names(model.spec, tensors)
    for canonical, merged in interleaved(model, tensors).items():
        name = model.source_names.get(canonical) or names[canonical]
        assert name is not None
        found[name] = merged
    return found


def lay_out(
    checkpoint: Checkpoint,
    tensors: Mapping[str, MergedTensor],
    file_type: FileType,
    request: ConvertRequest,
    recipe: Recipe,
) -> LaidOut:
    """The file of these tensors, by the names they have in it. No tensors: a file of the keys alone.

    Raises CheckpointError for a model whose keys the recipes cannot read and for a tensor of an unknown type, PlanError
    as the recipes do.
    """
    values = _key_values(checkpoint, file_type, recipe, request)
    notes = tuple(_inherited(checkpoint, values, {name: merged.base.shape for name, merged in tensors.items()}))
    if not tensors:
        return assembled(values, [], notes=notes)
    found = [
        UnquantizedTensor(name, ggml_shape(merged.base.shape), _kept(checkpoint, name, merged))
        for name, merged in tensors.items()
    ]
    if file_type.keeps:
        types = {tensor.name: tensor.type for tensor in sorted(found, key=lambda tensor: quantizer_order(tensor.name))}
    else:
        types = tensor_types(found, file_type, _facts(checkpoint), recipe)
    shapes = {tensor.name: tensor.shape for tensor in found}
    alignment = checkpoint.metadata.get(_ALIGNMENT, ALIGNMENT)
    return assembled(values, [(name, name, shapes[name], types[name]) for name in types], alignment, notes)


def _inherited(checkpoint: Checkpoint, values: KeyValues, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """What the output takes over of what is wrong with the file, a line each: llama-quantize does without a word."""
    findings = gguf_rules.broken_rules(values.encoded, shapes)
    for finding in islice(findings, _MOST_TOLD):
        yield f"{checkpoint.path}: {finding}; carried over: programs may refuse the output"
    if more := sum(1 for _ in findings):
        yield f"{checkpoint.path}: breaks {more} more rules, carried over too: fastconv verify names them"


def _kept(checkpoint: Checkpoint, name: str, merged: MergedTensor) -> str:
    """The type of a tensor that is not quantized: the file's own, the adapter's where it adds the tensor."""
    stored = checkpoint.tensors.get(name)
    type_name = todays_type(merged.base.dtype) if stored is None else stored.dtype
    if type_name not in TYPES or TYPES[type_name].ggml_type < 0:
        raise CheckpointError("has an unknown type", file=checkpoint.path, tensor=name, found=type_name)
    return type_name


def _facts(checkpoint: Checkpoint) -> ModelFacts:
    def number(key: str, default: int | None = None) -> int:
        value = checkpoint.metadata.get(f"{architecture}.{key}", default)
        # One number for all layers, or one for each.
        first = value[0] if isinstance(value, GgufArray) and value else value
        if type(first) is not int:
            raise CheckpointError(
                f"{architecture}.{key} is missing or not a number", file=checkpoint.path, found=str(value)[:80]
            )
        return first

    architecture = _architecture(checkpoint)
    n_head = number("attention.head_count", 0)
    return ModelFacts(
        architecture,
        number("block_count"),
        n_head,
        number("attention.head_count_kv", n_head),
        number("expert_count", 0),
    )


def _architecture(checkpoint: Checkpoint) -> str:
    found = checkpoint.metadata.get(_ARCHITECTURE)
    if not isinstance(found, str):
        kind = checkpoint.metadata.get("general.type")
        raise CheckpointError(
            f"is no model: {_ARCHITECTURE} is missing or no text",
            file=checkpoint.path,
            found=f"a file of type {kind}" if isinstance(kind, str) and kind != "model" else str(found)[:80],
        )
    return found


def _key_values(checkpoint: Checkpoint, file_type: FileType, recipe: Recipe, request: ConvertRequest) -> KeyValues:
    """The file's own, in its order; what is set anew stands at the end."""
    from gguf.constants import GGML_QUANT_VERSION, Keys, LlamaFileType

    values = KeyValues(str(checkpoint.metadata.get(_ARCHITECTURE)), checkpoint.encoded)
    stated = checkpoint.metadata.get(_FILE_TYPE)
    number = stated if file_type.keeps else LlamaFileType[file_type.gguf_name]
    for key in (_QUANTIZATION_VERSION, _FILE_TYPE, *_SPLIT):
        values.remove(key)
    values.uint32(_QUANTIZATION_VERSION, GGML_QUANT_VERSION)
    values.uint32(_FILE_TYPE, number if isinstance(number, int) else None)
    for key, value in (
        (Keys.Attention.LAYERNORM_RMS_EPS, request.rms_eps),
        (Keys.Rope.FREQ_BASE, request.rope_base),
    ):
        if value is not None:
            values.remove(key)
            values.float32(key, value)
    if request.n_ctx is not None:
        values.remove(Keys.LLM.CONTEXT_LENGTH)
        values.uint32(Keys.LLM.CONTEXT_LENGTH, request.n_ctx)
    if recipe.imatrix is not None:
        add_imatrix(values, recipe.imatrix)
    for key, text in provenance(request).items():
        values.remove(key)
        values.string(key, text)
    return values
