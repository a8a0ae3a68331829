"""What transformers loads: sharded safetensors or PyTorch files with their index, config.json, the tokenizer's files.

docs/formats/hf.md has the rules. Knows names and sizes, never tensor data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.spec import NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.json_file import read_json_object
from fastconv.errors import OutputError, PlanError
from fastconv.layout.beside import copied_file, json_file
from fastconv.layout.laid_out import LaidOut
from fastconv.layout.provenance import provenance
from fastconv.layout.safetensors import safetensors_file
from fastconv.layout.tokenizer_files import files_beside
from fastconv.layout.torch_zip import torch_zip_file
from fastconv.layout.weights_file import ArrayEntry, array_entries
from fastconv.paths import is_file, is_folder
from fastconv.plan.file_types import FileType
from fastconv.request import ConvertRequest

# stem and suffix of the weights, by --format
_WEIGHTS = {"safetensors": ("model", ".safetensors"), "bin": ("pytorch_model", ".bin"), "pth": ("model", ".pth")}
_OTHER_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin|pth)(\.index\.json)?")
_TORCH_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def lay_out(
    checkpoint: Checkpoint,
    model: NamedModel,
    tensors: Mapping[str, MergedTensor],
    file_type: FileType,
    request: ConvertRequest,
) -> tuple[LaidOut, ...]:
    """The files of the model's folder; of a target that names one file, the weights alone.

    Raises PlanError for a type that is not an array's or cannot be had, OutputError for a folder with other weights.
    """
    if not (file_type.keeps or file_type.is_float):
        raise PlanError(
            "Hugging Face files hold plain numbers", found=file_type.name, expected="auto, f32, f16 or bf16"
        )
    entries = array_entries(((name, name) for name in tensors), tensors, file_type)
    kind = request.weights_kind
    stem, suffix = _WEIGHTS[kind]
    target = request.target_path(file_type.name)
    made_by = provenance(request)
    if not request.is_folder_target:
        return (_weights_file(kind, entries, os.path.splitext(os.path.basename(target))[0], "", made_by),)
    shards = _shards(entries, request.shard_size if kind != "pth" else None)
    names = [
        f"{stem}{suffix}" if len(shards) == 1 else f"{stem}-{index:05d}-of-{len(shards):05d}{suffix}"
        for index in range(1, len(shards) + 1)
    ]
    weights = [
        _weights_file(kind, shard, name.removesuffix(suffix), name, made_by)
        for shard, name in zip(shards, names, strict=True)
    ]
    beside, notes = files_beside(checkpoint, model, request, but=names)
    files = [*weights, *beside]
    if len(shards) > 1:
        weight_map = {entry.name: name for shard, name in zip(shards, names, strict=True) for entry in shard}
        total = sum(entry.size for entry in entries)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        files.append(json_file(f"{stem}{suffix}.index.json", index))
    if kind != "pth":
        _check_folder(target, {file.name for file in files})
    # Last: while it is missing, nobody takes the folder for a model.
    files.append(replace(config_file(model, tensors, file_type), notes=notes))
    return tuple(files)


def config_file(model: NamedModel, tensors: Mapping[str, MergedTensor], file_type: FileType) -> LaidOut:
    """config.json with what the conversion changed; the input's own bytes where it changed nothing."""
    config = updated_config(model, tensors, file_type)
    path = os.path.join(model.directory, "config.json")
    if is_file(path) and config == read_json_object(path):
        return copied_file(path)
    return json_file("config.json", config)


def updated_config(model: NamedModel, tensors: Mapping[str, MergedTensor], file_type: FileType) -> dict[str, Any]:
    """The model's config with the dtype, vocabulary and tying of what is written."""
    config = dict(model.config)
    if not file_type.keeps:
        stated = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
        config |= dict.fromkeys(stated, _TORCH_DTYPES[file_type.type])
    if model.per_token and model.per_token[0] in tensors:
        embedding, *heads = model.per_token
        n_vocab = tensors[embedding].base.shape[0]
        if config.get("vocab_size") not in (None, n_vocab):
            config["vocab_size"] = n_vocab
        for head in heads:
            is_changed = head in tensors and (
                tensors[head].base is not model.tensors.get(head) or tensors[head].deltas or tensors[embedding].deltas
            )
            # Left out it may mean true: that is the default of several model classes.
            if is_changed and config.get("tie_word_embeddings") is not False:
                config["tie_word_embeddings"] = False
    return config


def _weights_file(
    kind: str, entries: Sequence[ArrayEntry], stem: str, name: str, metadata: Mapping[str, str]
) -> LaidOut:
    return safetensors_file(entries, name, metadata) if kind == "safetensors" else torch_zip_file(entries, stem, name)


def _shards(entries: Sequence[ArrayEntry], shard_size: int | None) -> list[list[ArrayEntry]]:
    """Runs of tensors of at most shard_size bytes; a larger tensor is a shard of its own."""
    shards: list[list[ArrayEntry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and shard_size is not None and size + entry.size > shard_size:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.size
    return shards


def _check_folder(target: str, names: set[str]) -> None:
    """Weights left over from another run would be read instead of these, or with them."""
    if is_folder(target):
        others = sorted(n for n in os.listdir(target) if _OTHER_WEIGHTS.fullmatch(n) and n not in names)
        if others:
            raise OutputError(
                "holds other weights", file=target, found=", ".join(others[:4]), fix="write to another folder"
            )
