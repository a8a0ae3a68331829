"""The rules that a file must keep on its own, beyond those that its reader refuses it for. Reads headers only."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from fastconv.architecture.canonical import canonical_model
from fastconv.architecture.registry import ARCHITECTURES, has_table
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.errors import ArchitectureError, CheckpointError
from fastconv.finding import Finding


def broken_rules(checkpoint: Checkpoint) -> tuple[list[Finding], list[str]]:
    """What is wrong with the file's structure, and what of it could not be checked, a line each."""
    findings: list[Finding] = []
    notes: list[str] = []
    if checkpoint.format == "gguf":
        from fastconv.architecture import gguf_rules
        from fastconv.verification.gguf_places import misplaced

        shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
        findings += [*gguf_rules.broken_rules(checkpoint.encoded, shapes), *misplaced(checkpoint)]
    elif checkpoint.format == "ggjt":
        findings += _ggjt(checkpoint)
    else:
        findings += _sizes_of_config(checkpoint)
    if not checkpoint.tensors or (findings and checkpoint.format == "gguf"):
        return findings, notes  # a vocabulary alone; or keys that may mislead what follows
    findings += list(_tensors_of_model(checkpoint, notes))
    return findings, notes


def _tensors_of_model(checkpoint: Checkpoint, notes: list[str]) -> Iterator[Finding]:
    """Whether the tensors are those of the architecture: all of them, in their shapes, and no others."""
    try:
        canonical_model(checkpoint)
    except (ArchitectureError, CheckpointError) as error:
        if _is_known(checkpoint):
            yield Finding.of(error)
        else:
            notes.append(f"names and shapes were not held against an architecture ({error.what})")


def _is_known(checkpoint: Checkpoint) -> bool:
    if checkpoint.format == "gguf":
        return any(spec.name == checkpoint.metadata.get("general.architecture") for spec in ARCHITECTURES)
    return checkpoint.format == "ggjt" or (bool(checkpoint.config) and has_table(checkpoint.config))


def _sizes_of_config(checkpoint: Checkpoint) -> Iterator[Finding]:
    embedding = checkpoint.tensors.get("model.embed_tokens.weight")
    if embedding is None or len(embedding.shape) != 2:
        return
    for key, found in (("vocab_size", embedding.shape[0]), ("hidden_size", embedding.shape[1])):
        stated = checkpoint.config.get(key)
        if isinstance(stated, int) and stated != found:
            path = os.path.join(checkpoint.directory, "config.json")
            yield Finding(f"{key} of {path} is not the embedding's", embedding.name, str(found), str(stated))


def _ggjt(checkpoint: Checkpoint) -> Iterator[Finding]:
    metadata, tensors = checkpoint.metadata, checkpoint.tensors
    scores = metadata.get("scores", [])
    bad = next((index for index, score in enumerate(scores) if not math.isfinite(score)), None)
    if bad is not None:
        yield Finding(f"the score of token {bad} is not finite", found=str(scores[bad]))
    if not tensors:
        return
    if metadata["n_head"] == 0 or metadata["n_embd"] % metadata["n_head"]:
        found = f"n_embd {metadata['n_embd']}, n_head {metadata['n_head']}"
        yield Finding("heads do not divide the embedding", found=found)
    width = metadata["n_embd"] // max(len(checkpoint.parts), 1)
    for name, shape in (
        ("tok_embeddings.weight", (metadata["n_vocab"], width)),
        ("norm.weight", (metadata["n_embd"],)),
    ):
        if name in tensors and tensors[name].shape != shape:
            found, wanted = (" x ".join(map(str, dims)) for dims in (tensors[name].shape, shape))
            yield Finding("is of another size than the header says", name, found, wanted)
    n_layer = len({name.split(".")[1] for name in tensors if name.startswith("layers.")})
    if n_layer != metadata["n_layer"]:
        yield Finding(
            "holds another number of layers than its header says", None, str(n_layer), str(metadata["n_layer"])
        )
