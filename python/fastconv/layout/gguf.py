"""GGUF version 3 as llama.cpp b11434 writes it: header, tensor records, offsets.

Knows sizes and names, never tensor data. docs/formats/gguf.md has the bytes in file order and the sources.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.rope import rope_factors
from fastconv.architecture.spec import CanonicalModel
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import ArrayStorage
from fastconv.errors import PlanError
from fastconv.layout.laid_out import LaidOut, PlacedTensor
from fastconv.plan.file_types import FileType, auto_file_type
from fastconv.plan.mixtures import ModelFacts
from fastconv.plan.recipe import PLAIN, Recipe, UnquantizedTensor, tensor_types
from fastconv.types import TYPES, row_bytes
from fastconv.vocab.vocabulary import Vocabulary

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32  # bytes, of the data section and of every tensor in it

_ROPE_FACTORS = "rope_freqs.weight"


def computed_tensors(model: CanonicalModel) -> dict[str, MergedTensor]:
    """Tensors that GGUF has and no checkpoint: the factors of llama3 rope scaling."""
    factors = rope_factors(model.hparams)
    if factors is None:
        return {}
    tensor = LazyTensor.stored(_ROPE_FACTORS, "f32", factors.shape, ArrayStorage(factors), 0)
    return {_ROPE_FACTORS: MergedTensor(tensor)}


def lay_out(
    model: CanonicalModel,
    tensors: Mapping[str, MergedTensor],
    vocabulary: Vocabulary,
    file_type: FileType,
    *,
    recipe: Recipe = PLAIN,
) -> LaidOut:
    """The file of these tensors: canonical names in source order, rows that rotate interleaved, computed ones included.

    No tensors: a file of the vocabulary alone. Raises CheckpointError for a model card that cannot be understood,
    PlanError for a tensor that GGUF has no name for or that its type cannot hold.
    """
    from fastconv.layout.gguf_metadata import key_values

    names = gguf_names(model, list(tensors))
    n_params = sum(math.prod(merged.base.shape) for merged in tensors.values())
    # As converted, or as converted and then quantized: llama.cpp's two programs order tensors and keys differently.
    quantizes = bool(tensors) and (not file_type.is_float or recipe.changes_float_files)
    values = key_values(model, vocabulary, file_type, n_params, quantizes=quantizes, imatrix=recipe.imatrix)
    types = _converted_types(names, tensors, file_type)
    if quantizes:
        types = _quantized_types(model, names, tensors, file_type, recipe)
    records: list[bytes] = []
    sizes: list[tuple[str, str, int, int]] = []
    end = 0
    for canonical, block in types.items():
        name, shape = names[canonical], tensors[canonical].base.shape
        size = math.prod(shape[:-1]) * row_bytes(block, shape[-1])
        records.append(_tensor_record(name, shape, block, end))
        sizes.append((canonical, block, end, size))
        end = _aligned(end + size)
    header = b"".join((MAGIC, struct.pack("<IQQ", VERSION, len(records), len(values)), bytes(values), *records))
    if not records:
        return LaidOut(((0, header),), (), len(header))
    start = _aligned(len(header))
    placed = tuple(
        PlacedTensor(names[canonical], canonical, tensors[canonical].base.shape, block, start + offset, size)
        for canonical, block, offset, size in sizes
    )
    notes: tuple[str, ...] = ()
    if recipe.leave_output and "lm_head.weight" not in tensors:
        notes = ("the model has no output.weight to leave as it is: its embeddings serve as one",)
    return LaidOut(((0, header),), placed, start + end, notes)


def gguf_names(model: CanonicalModel, canonical: Sequence[str]) -> dict[str, str]:
    """Canonical name -> GGUF's, in the order given. Raises PlanError where there is none."""
    import gguf

    architectures = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}
    # A map of all layers takes longer to build than anything else here; one layer has the names of all.
    name_map = gguf.get_tensor_name_map(architectures[model.spec.name], 1)
    names: dict[str, str] = {}
    for name in canonical:
        layer = re.search(r"\.(\d+)\.", name)
        stem = name if layer is None else f"{name[: layer.start(1)]}0{name[layer.end(1) :]}"
        found = name if name == _ROPE_FACTORS else name_map.get_name(stem, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise PlanError("has no name in GGUF", tensor=name)
        names[name] = found if layer is None else found.replace("blk.0.", f"blk.{layer[1]}.")
    return names


def _converted_types(
    names: Mapping[str, str], tensors: Mapping[str, MergedTensor], file_type: FileType
) -> dict[str, str]:
    """Types by canonical name, in the order of the source: vectors are f32, matrices of the one type."""
    return {canonical: file_type.type if len(tensors[canonical].base.shape) > 1 else "f32" for canonical in names}


def _quantized_types(
    model: CanonicalModel,
    names: Mapping[str, str],
    tensors: Mapping[str, MergedTensor],
    file_type: FileType,
    recipe: Recipe,
) -> dict[str, str]:
    """Types by canonical name, in the order of llama-quantize."""
    matrices = [merged.base.dtype for merged in tensors.values() if len(merged.base.shape) > 1]
    unquantized = _converted_types(names, tensors, auto_file_type(matrices))
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


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
