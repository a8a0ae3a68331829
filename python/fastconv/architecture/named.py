"""Any checkpoint -> its tensors under Hugging Face's names, whatever the family: what targets need that keep them.

A model whose architecture has a table is proven complete; of others it is only known that their names are Hugging
Face's already.
"""

from __future__ import annotations

import os

from fastconv.architecture.canonical import canonical_model, holds_meta_names
from fastconv.architecture.registry import has_table
from fastconv.architecture.spec import NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.errors import ArchitectureError


def named_model(checkpoint: Checkpoint, n_ctx: int | None = None) -> NamedModel:
    """The checkpoint under canonical names; no tensor data is read.

    n_ctx: as for canonical_model. Raises ArchitectureError as it does, and for quantized checkpoints.
    """
    is_hf = checkpoint.format in ("safetensors", "torch") and not holds_meta_names(checkpoint)
    if not is_hf or not checkpoint.config or has_table(checkpoint.config):
        return canonical_model(checkpoint, n_ctx)
    if checkpoint.config.get("quantization_config"):
        raise ArchitectureError(
            "is a quantized model, whose tensors mean nothing on their own",
            file=os.path.join(checkpoint.directory, "config.json"),
            fix="start from the unquantized model",
        )
    names = {name: name for name in checkpoint.tensors}
    return NamedModel(
        tensors=checkpoint.tensors, directory=checkpoint.directory, config=checkpoint.config, source_names=names
    )
