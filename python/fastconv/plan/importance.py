"""Which tensor is weighted by which importance: an importance matrix held against the plan, before anything is written.

llama-quantize uses what fits and finds out during the run what does not; here a matrix of another model is refused.
Source of what is needed: llama.cpp b11434, src/llama-quant.cpp (llama_model_quantize_impl).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastconv import _native
from fastconv.errors import PlanError
from fastconv.plan.file_types import FileType
from fastconv.plan.mixtures import EMBEDDINGS, OUTPUT
from fastconv.plan.recipe import requires_importance
from fastconv.types import TYPES

if TYPE_CHECKING:
    from fastconv.checkpoint.imatrix import ImatrixEntry, Importance, ImportanceMatrix

_NAMED_AT_MOST = 3


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of one output. name: GGUF's. shape: output dimension first. file_type: of the file it stands in."""

    name: str
    shape: tuple[int, ...]
    type: str
    file_type: FileType


def importance_by_name(
    imatrix: ImportanceMatrix | None, planned: Sequence[PlannedTensor]
) -> tuple[dict[str, Importance], list[str]]:
    """The importance of each tensor that has one, and what users should know of it, a line each.

    Raises PlanError for a tensor that cannot do without, and for an importance matrix of another model: one that lacks
    a tensor whose bytes depend on it, names a tensor that the model does not have, or has another length.
    """
    for tensor in planned:
        if imatrix is None and _needs(tensor):
            raise PlanError(f"{tensor.type} needs an importance matrix", tensor=tensor.name, fix="give --imatrix")
    if imatrix is None:
        return {}, []
    _check_surplus(imatrix, {tensor.name for tensor in planned})
    found: dict[str, Importance] = {}
    missing: dict[str, None] = {}
    for tensor in planned:
        entry = imatrix.entries.get(tensor.name)
        if entry is not None and tensor.name not in found:
            fitted = _fitted(imatrix, entry, tensor)
            if fitted is not None:
                found[tensor.name] = fitted
        if tensor.name not in found and (_needs(tensor) or _is_expected(tensor)):
            missing[tensor.name] = None
    if missing:
        raise PlanError(
            "lacks the importance of tensors of this model",
            file=imatrix.path,
            found=f"nothing on {_some(missing)}",
            fix="compute it with this model",
        )
    return found, _notes(imatrix, found)


def _needs(tensor: PlannedTensor) -> bool:
    return TYPES[tensor.type].needs_importance or requires_importance(tensor.name, tensor.type, tensor.file_type)


def _is_expected(tensor: PlannedTensor) -> bool:
    """Whether every importance matrix of the model has it: llama-imatrix leaves out the embeddings and the output."""
    return (
        _native.heeds_importance(tensor.type)
        and tensor.name.startswith("blk.")
        and tensor.name not in (*EMBEDDINGS, OUTPUT)
    )


def _fitted(imatrix: ImportanceMatrix, entry: ImatrixEntry, tensor: PlannedTensor) -> Importance | None:
    n_matrices, n_cols = math.prod(tensor.shape[:-2]), tensor.shape[-1]
    if entry.n_values != n_matrices * n_cols or n_matrices % len(entry.counts):
        # As llama-quantize, which finds this in many a matrix.
        if tensor.name in EMBEDDINGS and not _needs(tensor):
            return None
        raise PlanError(
            "has an importance of another length; is it another model's?",
            file=imatrix.path,
            tensor=tensor.name,
            found=f"{entry.n_values} values, {len(entry.counts)} counts",
            expected=f"{n_matrices * n_cols} values",
        )
    return entry.importance(n_matrices, n_cols)


def _check_surplus(imatrix: ImportanceMatrix, names: Collection[str]) -> None:
    surplus = [name for name in imatrix.entries if name not in names]
    if surplus:
        raise PlanError(
            "holds the importance of tensors that the model does not have; is it another model's?",
            file=imatrix.path,
            found=_some(surplus),
        )


def _notes(imatrix: ImportanceMatrix, found: dict[str, Importance]) -> list[str]:
    unused = {name: importance.counts.count(0) for name, importance in found.items() if 0 in importance.counts}
    if not unused:
        return []
    return [
        f"{imatrix.path}: {sum(unused.values())} expert matrices in {len(unused)} tensors were never used when it was "
        "computed; all their columns count alike"
    ]


def _some(names: Collection[str]) -> str:
    listed = list(names)
    rest = len(listed) - _NAMED_AT_MOST
    return ", ".join(listed[:_NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")
