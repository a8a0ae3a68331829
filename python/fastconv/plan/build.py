"""The canonical model with its deltas -> the target's tensors: names, row order, types. Reads no tensor data.

Offsets are not known here: they are the layout's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.canonical import instances
from fastconv.architecture.rope import interleaved_from_halves
from fastconv.architecture.spec import CanonicalModel
from fastconv.errors import PlanError
from fastconv.types import TYPES


@dataclass(frozen=True, slots=True, eq=False)
class PlannedTensor:
    """A tensor of the target. name: in its naming. canonical: Hugging Face's. types: one per output file."""

    name: str
    canonical: str
    shape: tuple[int, ...]
    tensor: MergedTensor
    types: tuple[str, ...] = ()


def interleaved(model: CanonicalModel, tensors: Mapping[str, MergedTensor]) -> dict[str, MergedTensor]:
    """The tensors with the rows of rotating heads in Meta's order, which GGUF and GGJT share; in the order given."""
    heads = {name: rule.rope_heads for rule, _, name in instances(model.spec, model.hparams) if rule.rope_heads}
    index = {
        attribute: interleaved_from_halves(getattr(model.hparams, attribute), model.hparams.head_dim)
        for attribute in set(heads.values())
    }
    return {name: merged.with_rows(index[heads[name]]) if name in heads else merged for name, merged in tensors.items()}


def meta_names(model: CanonicalModel) -> dict[str, str]:
    """Canonical name -> Meta's name, which GGJT files share."""
    return {
        hf: rule.meta if layer is None else rule.meta.format(layer=layer)
        for rule, layer, hf in instances(model.spec, model.hparams)
    }


def check_types(planned: Sequence[PlannedTensor]) -> None:
    """Raises PlanError where a row does not divide into the blocks of its type."""
    for tensor in planned:
        for name in tensor.types:
            info = TYPES[name]
            if not info.encodes:
                raise PlanError("is not a type that can be written", tensor=tensor.name, found=name)
            if tensor.shape[-1] % info.block_size:
                raise PlanError(
                    f"does not divide into {name} blocks",
                    tensor=tensor.name,
                    found=f"rows of {tensor.shape[-1]}",
                    expected=f"a multiple of {info.block_size}",
                    fix="choose f16, bf16 or f32 for it",
                )
