"""Any checkpoint -> its tensors under Hugging Face's names, whatever the family: what targets need that keep them.

A model whose architecture has a table is proven complete; of others it is only known that their names are Hugging
Face's already.
"""

from __future__ import annotations

import os

from fastconv.architecture.canonical import canonical_model, holds_meta_names
from fastconv.architecture.hparams import Given
from fastconv.architecture.litgpt.classes import class_of_config, is_tied
from fastconv.architecture.litgpt.mapping import head_names
from fastconv.architecture.litgpt.marks import holds_lit_names
from fastconv.architecture.registry import has_table
from fastconv.architecture.spec import NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.errors import ArchitectureError


def named_model(checkpoint: Checkpoint, given: Given) -> NamedModel:
    """The checkpoint under canonical names; no tensor data is read.

    Raises ArchitectureError as canonical_model does, and for quantized checkpoints.
    """
    if holds_lit_names(checkpoint.tensors):
        from fastconv.architecture.litgpt.source import model_from_litgpt

        return model_from_litgpt(checkpoint, given)
    is_hf = not checkpoint.is_self_contained and not holds_meta_names(checkpoint)
    if not is_hf or not checkpoint.config or has_table(checkpoint.config):
        return canonical_model(checkpoint, given)
    config_file = os.path.join(checkpoint.directory, "config.json")
    if checkpoint.config.get("quantization_config"):
        raise ArchitectureError(
            "is a quantized model, whose tensors mean nothing on their own",
            file=config_file,
            fix="start from the unquantized model",
        )
    tied: dict[str, str] = {}
    per_token: tuple[str, ...] = ()
    entry = class_of_config(checkpoint.config, config_file)
    if entry is not None and head_names(entry.naming)[0] in checkpoint.tensors:
        embedding, head = per_token = head_names(entry.naming)
        if head not in checkpoint.tensors:
            if not is_tied(entry, checkpoint.config):
                raise ArchitectureError(
                    "is missing",
                    file=checkpoint.path,
                    tensor=head,
                    fix="if the model shares its embedding, config.json must say tie_word_embeddings: true",
                )
            tied = {head: embedding}
    model = NamedModel(
        tensors=checkpoint.tensors,
        directory=checkpoint.directory,
        config=checkpoint.config,
        source_names={name: name for name in checkpoint.tensors},
        tied=tied,
        per_token=per_token,
    )
    return _with_rows_for_tokens(model, checkpoint)


def _with_rows_for_tokens(model: NamedModel, checkpoint: Checkpoint) -> NamedModel:
    """The model, once its tensors with a row per token have equally many."""
    found = [(name, model.tensors[name]) for name in model.per_token if name in model.tensors]
    for name, tensor in found:
        embedding, first = found[0][0], found[0][1].shape
        if len(tensor.shape) != 2 or tensor.shape[0] != first[0]:
            raise ArchitectureError(
                "has not one row for each token",
                file=tensor.files[0] if tensor.files else checkpoint.path,
                tensor=name,
                found=list(tensor.shape),
                expected=f"{first[0]} rows, as {embedding} has" if len(first) == 2 else "a matrix",
                fix="download or copy the checkpoint again",
            )
    return model
