"""GGUF version 3 as llama.cpp b11434 writes it: header, tensor records, offsets.

Knows sizes and names, never tensor data. docs/formats/gguf.md has the bytes in file order and the sources.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture import gguf_keys
from fastconv.architecture.rope import rope_factors
from fastconv.architecture.spec import CanonicalModel
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import ArrayStorage
from fastconv.errors import PlanError
from fastconv.layout.laid_out import LaidOut, PlacedTensor
from fastconv.plan.file_types import FileType, auto_file_type, todays_type
from fastconv.plan.mixtures import ModelFacts
from fastconv.plan.recipe import PLAIN, Recipe, UnquantizedTensor, quantizer_order, tensor_types
from fastconv.types import TYPES, row_bytes
from fastconv.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from fastconv.layout.gguf_metadata import KeyValues

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32  # bytes, of the data section and of every tensor in it


def computed_tensors(model: CanonicalModel) -> dict[str, MergedTensor]:
    """Tensors that GGUF has and no checkpoint: the factors of llama3 rope scaling."""
    factors = rope_factors(model.hparams)
    if factors is None:
        return {}
    tensor = LazyTensor.stored(gguf_keys.ROPE_FACTORS, "f32", factors.shape, ArrayStorage(factors), 0)
    return {gguf_keys.ROPE_FACTORS: MergedTensor(tensor)}


def lay_out(
    model: CanonicalModel,
    tensors: Mapping[str, MergedTensor],
    vocabulary: Vocabulary,
    file_type: FileType,
    *,
    recipe: Recipe = PLAIN,
    provenance: Mapping[str, str] | None = None,
) -> LaidOut:
    """The file of these tensors: canonical names in source order, rows that rotate interleaved, computed ones included.

    provenance: keys and texts to put after llama.cpp's.

    No tensors: a file of the vocabulary alone. Raises CheckpointError for a model card that cannot be understood,
    PlanError for a tensor that GGUF has no name for or that its type cannot hold.
    """
    from fastconv.layout.gguf_metadata import key_values

    names = gguf_names(model, list(tensors))
    n_params = sum(math.prod(merged.base.shape) for merged in tensors.values())
    # As converted, or as converted and then quantized: llama.cpp's two programs order tensors and keys differently.
    quantizes = bool(tensors) and (not file_type.is_float or recipe.changes_float_files)
    values = key_values(model, vocabulary, file_type, n_params, quantizes=quantizes, imatrix=recipe.imatrix)
    for key, text in (provenance or {}).items():
        values.string(key, text)
    if file_type.keeps:
        types = dict(sorted(_kept_types(names, tensors).items(), key=lambda item: quantizer_order(names[item[0]])))
    elif quantizes:
        types = _quantized_types(model, names, tensors, file_type, recipe)
    else:
        types = _converted_types(names, tensors, file_type)
    planned = [
        (canonical, names[canonical], tensors[canonical].base.shape, block) for canonical, block in types.items()
    ]
    notes = tuple(values.notes)
    if recipe.leave_output and "lm_head.weight" not in tensors:
        notes += ("the model has no output.weight to leave as it is: its embeddings serve as one",)
    return assembled(values, planned, notes=notes)


def assembled(
    values: KeyValues,
    planned: Sequence[tuple[str, str, tuple[int, ...], str]],
    alignment: int = ALIGNMENT,
    notes: tuple[str, ...] = (),
) -> LaidOut:
    """The file of these keys and tensors. planned: canonical name, GGUF's, shape and type, in the order of the file."""
    records: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    end = 0
    for _, name, shape, block in planned:
        size = math.prod(shape[:-1]) * row_bytes(block, shape[-1])
        records.append(_tensor_record(name, shape, block, end))
        sizes.append((end, size))
        end = _aligned(end + size, alignment)
    header = b"".join((MAGIC, struct.pack("<IQQ", VERSION, len(records), len(values)), bytes(values), *records))
    if not records:
        return LaidOut(((0, header),), (), len(header), notes, key_values=values.encoded)
    start = _aligned(len(header), alignment)
    placed = tuple(
        PlacedTensor(name, canonical, shape, block, start + offset, size)
        for (canonical, name, shape, block), (offset, size) in zip(planned, sizes, strict=True)
    )
    return LaidOut(((0, header),), placed, start + end, notes, key_values=values.encoded)


def gguf_names(model: CanonicalModel, canonical: Sequence[str]) -> dict[str, str]:
    """Canonical name -> GGUF's, in the order given. Raises PlanError where there is none."""
    names: dict[str, str] = {}
    for name, found in gguf_keys.gguf_names(model.spec, canonical).items():
        if found is None:
            raise PlanError("has no name in GGUF", tensor=name)
        names[name] = found
    return names


def _converted_types(
    names: Mapping[str, str], tensors: Mapping[str, MergedTensor], file_type: FileType
) -> dict[str, str]:
    """Types by canonical name, in the order of the source: vectors are f32, matrices of the one type."""
    return {canonical: file_type.type if len(tensors[canonical].base.shape) > 1 else "f32" for canonical in names}


def _kept_types(names: Mapping[str, str], tensors: Mapping[str, MergedTensor]) -> dict[str, str]:
    """Types by canonical name: what tensors have that are not quantized anew."""
    matrices = {name: merged.base.dtype for name, merged in tensors.items() if len(merged.base.shape) > 1}
    kept = auto_file_type(list(matrices.values()))
    types = _converted_types(names, tensors, kept)
    return types | {name: todays_type(dtype) for name, dtype in matrices.items()} if kept.keeps else types


def _quantized_types(
    model: CanonicalModel,
    names: Mapping[str, str],
    tensors: Mapping[str, MergedTensor],
    file_type: FileType,
    recipe: Recipe,
) -> dict[str, str]:
    """Types by canonical name, in the order of llama-quantize."""
    unquantized = _kept_types(names, tensors)
    canonical = {name: canonical for canonical, name in names.items()}
    hparams = model.hparams
    facts = ModelFacts(model.spec.name, hparams.n_layer, hparams.n_head, hparams.n_head_kv)
    found = [UnquantizedTensor(names[key], tensors[key].base.shape, kept) for key, kept in unquantized.items()]
    types = tensor_types(found, file_type, facts, recipe)
    return {canonical[name]: type_name for name, type_name in types.items()}


def _tensor_record(name: str, shape: Sequence[int], block: str, offset: int) -> bytes:
    """Dimensions are reversed here and nowhere else."""
    label = name.encode()
    return struct.pack(
        f"<Q{len(label)}sI{len(shape)}QIQ",
        len(label),
        label,
        len(shape),
        *reversed(shape),
        TYPES[block].ggml_type,
        offset,
    )


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
