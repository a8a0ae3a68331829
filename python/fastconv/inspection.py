"""What a file or folder holds, without converting it: checkpoints, adapters, GGUF and GGJT files."""

from __future__ import annotations

import os
from dataclasses import field, fields
from typing import Any

from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.json_file import read_json_object
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.open import open_checkpoint
from fastconv.errors import FastconvError, system_errors_told
from fastconv.paths import exists, is_folder
from fastconv.record import record


@record(eq=True)
class TensorInfo:
    """size, offset: bytes; offset from the start of `file` to the first element."""

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    offset: int
    file: str


@record(eq=True)
class Inspection:
    """kind: "checkpoint", "adapter", "gguf" or "ggjt".

    hyperparameters: under fastconv's names where the architecture is known, else as stored. vocabulary: its kind and
    size. metadata: what the file holds beside tensors. notes: what a conversion would trip over.
    """

    path: str
    kind: str
    format: str
    architecture: str | None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    vocabulary: dict[str, Any] = field(default_factory=dict)
    tensors: tuple[TensorInfo, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@system_errors_told()
def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a model folder, an adapter, or a single file; reads headers only. Raises CheckpointError."""
    path = os.fspath(path)
    adapter_config = os.path.join(path, "adapter_config.json")
    if is_folder(path) and exists(adapter_config):
        return _adapter(path)
    checkpoint = open_checkpoint(path)
    if checkpoint.format == "gguf":
        return _gguf(checkpoint)
    if checkpoint.format == "ggjt":
        return _ggjt(checkpoint)
    if any(".lora_" in name for name in checkpoint.tensors):
        return Inspection(path, "adapter", checkpoint.format, None, tensors=_tensors(checkpoint))
    return _checkpoint(checkpoint)


def _adapter(path: str) -> Inspection:
    from fastconv.adapter.peft import adapter_file, open_peft_adapter

    checkpoint = open_checkpoint(adapter_file(path))
    notes = []
    try:
        open_peft_adapter(path)
    except FastconvError as error:
        notes.append(str(error))
    return Inspection(
        path,
        "adapter",
        checkpoint.format,
        None,
        hyperparameters=read_json_object(os.path.join(path, "adapter_config.json")),
        tensors=_tensors(checkpoint),
        notes=tuple(notes),
    )


def _checkpoint(checkpoint: Checkpoint) -> Inspection:
    from fastconv.architecture.canonical import canonical_model
    from fastconv.vocab.load import load_vocabulary

    notes = []
    architecture, hyperparameters, vocabulary = None, dict(checkpoint.config), {}
    try:
        model = canonical_model(checkpoint)
        architecture = model.spec.name
        hyperparameters = {field.name: getattr(model.hparams, field.name) for field in fields(model.hparams)}
        found = load_vocabulary(model.directory, model.hparams.n_vocab, config=model.config)
        vocabulary = {"kind": found.kind, "tokens": len(found.tokens)}
    except FastconvError as error:
        # A look inside must work for models that cannot be converted, and say why they cannot.
        notes.append(str(error))
    return Inspection(
        checkpoint.path,
        "checkpoint",
        checkpoint.format,
        architecture,
        hyperparameters,
        vocabulary,
        _tensors(checkpoint),
        dict(checkpoint.metadata),
        tuple(notes),
    )


def _gguf(checkpoint: Checkpoint) -> Inspection:
    values = dict(checkpoint.metadata)
    architecture = values.get("general.architecture")
    prefix = f"{architecture}."
    tokens = values.get("tokenizer.ggml.tokens", ())
    return Inspection(
        checkpoint.path,
        "adapter" if values.get("general.type") == "adapter" else "gguf",
        "gguf",
        architecture,
        {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)},
        {"kind": values.get("tokenizer.ggml.model"), "tokens": len(tokens)} if tokens else {},
        _tensors(checkpoint),
        {key: value for key, value in values.items() if not key.startswith(prefix)},
    )


def _ggjt(checkpoint: Checkpoint) -> Inspection:
    values = dict(checkpoint.metadata)
    tokens = values.pop("tokens", ())
    values.pop("scores", None)
    return Inspection(
        checkpoint.path,
        "ggjt",
        "ggjt",
        "llama",
        values,
        {"kind": "spm", "tokens": len(tokens)},
        _tensors(checkpoint),
    )


def _tensors(checkpoint: Checkpoint) -> tuple[TensorInfo, ...]:
    return tuple(_tensor_info(name, tensor) for name, tensor in checkpoint.tensors.items())


def _tensor_info(name: str, tensor: LazyTensor) -> TensorInfo:
    piece = tensor.pieces[0]
    return TensorInfo(name, tensor.dtype, tensor.shape, tensor.n_bytes, piece.offset, piece.storage.path)
