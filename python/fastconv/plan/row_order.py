"""The order of rows that GGUF and GGJT share. Reads no tensor data."""

from __future__ import annotations

from collections.abc import Mapping

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.canonical import instances
from fastconv.architecture.rope import interleaved_from_halves
from fastconv.architecture.spec import CanonicalModel


def interleaved(model: CanonicalModel, tensors: Mapping[str, MergedTensor]) -> dict[str, MergedTensor]:
    """The tensors with the rows of rotating heads in Meta's order, which GGUF and GGJT share; in the order given."""
    heads = {name: rule.rope_heads for rule, _, name in instances(model.spec, model.hparams) if rule.rope_heads}
    index = {
        attribute: interleaved_from_halves(getattr(model.hparams, attribute), model.hparams.head_dim)
        for attribute in set(heads.values())
    }
    return {name: merged.with_rows(index[heads[name]]) if name in heads else merged for name, merged in tensors.items()}
