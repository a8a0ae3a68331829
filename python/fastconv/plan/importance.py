"""Which tensor is weighted by which importance: an importance matrix held against the plan, before anything is written.

llama-quantize uses what fits and finds out during the run what does not; here a matrix of another model is refused.
Source of what is needed: llama.cpp b11434, src/llama-quant.cpp (llama_model_quantize_impl).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastconv import _native
from fastconv.errors import PlanError
from fastconv.plan.file_types import FileType
from fastconv.plan.job import TensorJob
from fastconv.plan.mixtures import EMBEDDINGS
from fastconv.plan.recipe import requires_importance
from fastconv.plan.stored_types import keeps_levels
from fastconv.types import TYPES

if TYPE_CHECKING:
    from fastconv.checkpoint.imatrix import ImatrixEntry, Importance, ImportanceMatrix

_NAMED_AT_MOST = 3


def with_importance(
    jobs: Sequence[TensorJob], file_types: Sequence[FileType], imatrix: ImportanceMatrix | None
) -> tuple[tuple[TensorJob, ...], list[str]]:
    """The jobs, each with the importance of its tensor if there is one, and what users should know, a line each.

    jobs: of GGUF files, if imatrix is given. file_types: of the output files. Raises PlanError for a tensor that cannot
    do without importance, and for an importance matrix of another model: one that lacks a tensor whose bytes depend on
    it, names a tensor that the model does not have, or has another length.
    """
    if imatrix is None:
        for job in jobs:
            needing = _needing(job, file_types)
            if needing is not None:
                raise PlanError(f"{needing} needs an importance matrix", tensor=job.name, fix="give --imatrix")
        return tuple(jobs), []
    _check_surplus(imatrix, {job.name for job in jobs})
    weighted: list[TensorJob] = []
    missing: list[str] = []
    for job in jobs:
        needed = _needing(job, file_types) is not None
        entry = imatrix.entries.get(job.name)
        importance = None if entry is None else _fitted(imatrix, entry, job, needed=needed)
        if importance is None and (needed or _is_expected(job)):
            missing.append(job.name)
        weighted.append(replace(job, importance=importance))
    if missing:
        raise PlanError(
            "lacks the importance of tensors of this model",
            file=imatrix.path,
            found=f"nothing on {_some(missing)}",
            fix="compute it with this model",
        )
    return tuple(weighted), _notes(imatrix, weighted)


def _needing(job: TensorJob, file_types: Sequence[FileType]) -> str | None:
    """The type that cannot be written without importance. Blocks that are kept were written before."""
    for output in job.outputs:
        required = requires_importance(job.name, output.type, file_types[output.file])
        if (required or TYPES[output.type].needs_importance) and not keeps_levels(job, output):
            return output.type
    return None


def _is_expected(job: TensorJob) -> bool:
    """Whether every importance matrix of the model has it: llama-imatrix leaves out the embeddings and the output."""
    return job.name.startswith("blk.") and any(
        _native.heeds_importance(output.type) and not keeps_levels(job, output) for output in job.outputs
    )


def _fitted(imatrix: ImportanceMatrix, entry: ImatrixEntry, job: TensorJob, *, needed: bool) -> Importance | None:
    n_matrices, n_cols = math.prod(job.shape[:-2]), job.shape[-1] if job.shape else 1
    if entry.n_values != n_matrices * n_cols or n_matrices % len(entry.counts):
        # As llama-quantize, which finds this in many a matrix.
        if job.name in EMBEDDINGS and not needed:
            return None
        raise PlanError(
            "has an importance of another length; is it another model's?",
            file=imatrix.path,
            tensor=job.name,
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


def _notes(imatrix: ImportanceMatrix, jobs: Sequence[TensorJob]) -> list[str]:
    unused = [
        job.importance.counts.count(0) for job in jobs if job.importance is not None and 0 in job.importance.counts
    ]
    if not unused:
        return []
    return [
        f"{imatrix.path}: {sum(unused)} expert matrices in {len(unused)} tensors were never used when it was computed; "
        "all their columns count alike"
    ]


def _some(names: Collection[str]) -> str:
    listed = list(names)
    rest = len(listed) - _NAMED_AT_MOST
    return ", ".join(listed[:_NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")
