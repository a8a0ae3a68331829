"""What LitGPT loads: lit_model.pth with its fused QKV, model_config.yaml, and the files that it expects beside them.

docs/formats/litgpt.md has the rules. Knows names, rows and settings, never tensor data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.litgpt.classes import ModelClass
from fastconv.architecture.litgpt.config import DEFAULTS, LitConfig, config_of_name, known_configs, settings_of_2023
from fastconv.architecture.litgpt.mapping import INTERLEAVED, Sizes, head_names, shared_rows
from fastconv.architecture.litgpt.model import model_class_and_sizes
from fastconv.architecture.litgpt.settings import lit_fields
from fastconv.architecture.litgpt.source import agrees
from fastconv.architecture.spec import NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.errors import ArchitectureError, PlanError
from fastconv.layout.beside import json_file, text_file
from fastconv.layout.hf import config_file
from fastconv.layout.laid_out import LaidOut
from fastconv.layout.tokenizer_files import files_beside
from fastconv.layout.torch_zip import torch_zip_file
from fastconv.layout.weights_file import array_entries
from fastconv.plan.file_types import FileType
from fastconv.plan.joined_rows import joined_rows
from fastconv.request import ConvertRequest

_WEIGHTS = "lit_model.pth"
_HEAD, _EMBEDDING = "lm_head.weight", "transformer.wte.weight"
# Buffers that transformers used to save and computes today.
_BUFFERS = re.compile(r".*\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|attention\.(bias|masked_bias))")


def arranged(model: NamedModel, tensors: Mapping[str, MergedTensor], qkv_layout: str) -> dict[str, MergedTensor]:
    """The tensors by Lit-GPT's names, joined as it has them. qkv_layout: split or interleaved.

    Raises ArchitectureError where the model is none of Lit-GPT's families or incomplete, PlanError for what no joined
    tensor can hold.
    """
    entry, sizes = _class_and_sizes(model, tensors)
    _, head = head_names(entry.naming)
    found: dict[str, MergedTensor] = {}
    used: set[str] = set()
    for shared in shared_rows(entry.naming, sizes, qkv_layout):
        if shared.hf == (head,) and head not in tensors and head in model.tied:
            continue  # the embedding once more
        parts = []
        for name, shape, _ in shared.hf_spans():
            part = tensors.get(name)
            if part is None:
                raise ArchitectureError("is missing", file=model.directory, tensor=name)
            if part.base.shape != shape:
                raise ArchitectureError(
                    "has another shape than the rest of the model says",
                    file=model.directory,
                    tensor=name,
                    found=list(part.base.shape),
                    expected=list(shape),
                )
            parts.append(part)
            used.add(name)
        joined = joined_rows(shared.lit[0], parts, shared.rows)
        for name, shape, begin in shared.lit_spans():
            found[name] = joined.row_range(begin, begin + shape[0]).renamed(name)
    for name in tensors:
        if name not in used and not _BUFFERS.fullmatch(name):
            raise ArchitectureError(
                f"has no place in Lit-GPT's {entry.naming.name} models", file=model.directory, tensor=name
            )
    return found


def lay_out(
    checkpoint: Checkpoint,
    model: NamedModel,
    tensors: Mapping[str, MergedTensor],
    file_type: FileType,
    request: ConvertRequest,
) -> tuple[LaidOut, ...]:
    """The files of arranged tensors; of a target that names one file, the weights alone."""
    if not (file_type.keeps or file_type.is_float):
        raise PlanError("Lit-GPT's files hold plain numbers", found=file_type.name, expected="auto, f32, f16 or bf16")
    entries = array_entries(names_in_file(tensors), tensors, file_type)
    if not request.is_folder_target:
        target = request.target_path(file_type.name)
        return (torch_zip_file(entries, os.path.splitext(os.path.basename(target))[0]),)
    entry, sizes = model_class_and_sizes(model)
    settings = _settings(entry, sizes, model, request.model_name)
    former = settings_of_2023(settings) if request.litgpt_layout == INTERLEAVED else None
    beside, notes = files_beside(checkpoint, model, request)
    return (
        torch_zip_file(entries, "lit_model", _WEIGHTS),
        *beside,
        replace(config_file(model, {}, file_type), notes=notes),
        *([json_file("lit_config.json", former)] if former is not None else []),
        text_file("model_config.yaml", _yaml(settings)),
    )


def names_in_file(tensors: Iterable[str]) -> list[tuple[str, str]]:
    """Names of the file's tensors, and of the arranged ones that they hold: a tied embedding is there twice."""
    names = [(name, name) for name in tensors]
    return names if (_HEAD, _HEAD) in names else [*names, (_HEAD, _EMBEDDING)]


def _class_and_sizes(model: NamedModel, tensors: Mapping[str, MergedTensor]) -> tuple[ModelClass, Sizes]:
    entry, sizes = model_class_and_sizes(model)
    embedding = tensors.get(head_names(entry.naming)[0])
    if embedding is not None and embedding.base.shape[0] != sizes.n_vocab:
        raise PlanError(
            "LitGPT knows no resized vocabulary",
            tensor=head_names(entry.naming)[0],
            found=f"{embedding.base.shape[0]} rows",
            expected=sizes.n_vocab,
            fix="merge into Hugging Face files first",
        )
    return entry, sizes


def _settings(entry: ModelClass, sizes: Sizes, model: NamedModel, model_name: str | None) -> dict[str, Any]:
    """LitGPT's own of a model that it knows, else those that config.json says."""
    known = _known(sizes, model, model_name)
    if known is not None:
        fields, name, hub_name = dict(known.fields), known.name, known.hub_name
    else:
        fields = lit_fields(entry, model.config)
        fields["padded_vocab_size"] = sizes.n_vocab
        fields = {key: value for key, value in fields.items() if value != DEFAULTS.get(key)}
        own = os.path.basename(os.path.abspath(model.directory))
        # LitGPT's code goes by how names begin.
        name = own if own.lower().startswith(entry.lit_name.lower()) else f"{entry.lit_name}{own}"
        hub_name = name
    org, _, hub = hub_name.rpartition("/")
    return {"name": name, "hf_config": {"org": org, "name": hub}} | fields


def _known(sizes: Sizes, model: NamedModel, model_name: str | None) -> LitConfig | None:
    if model_name is not None:
        known = config_of_name(model_name)
        if not agrees(known, sizes):
            raise ArchitectureError(f"is not {known.name}: its sizes are others", file=model.directory)
        return known
    origin = model.config.get("_name_or_path")
    paths = [os.path.abspath(model.directory), *([origin] if isinstance(origin, str) else [])]
    names = {os.path.basename(path.rstrip("/")) for path in paths}
    same = [
        config
        for config in known_configs()
        if {config.name, config.hub_name.rpartition("/")[2]} & names and agrees(config, sizes)
    ]
    return same[0] if same else None


def _yaml(settings: dict[str, Any]) -> str:
    import yaml  # comes with gguf

    text: str = yaml.safe_dump(settings)
    return text
