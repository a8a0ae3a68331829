"""What becomes of the types that tensors have in their source: kept, repacked, decoded, encoded anew. Reads no data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from fastconv.errors import PlanError
from fastconv.plan.job import TensorJob, TensorOutput
from fastconv.types import TYPES


def keeps_levels(job: TensorJob, output: TensorOutput) -> bool:
    """Whether the output holds the source's elements as they are: the engine copies or repacks, and decodes nothing."""
    stored = {piece.type for piece in job.source.pieces}
    if job.deltas or len(stored) != 1:
        return False
    [type_name] = stored
    return type_name == output.type or TYPES[type_name].today == TYPES[output.type].today


def check_types(jobs: Iterable[TensorJob]) -> None:
    """Raises PlanError where a type would have to be decoded or encoded that cannot be."""
    for job in jobs:
        for output in job.outputs:
            if keeps_levels(job, output):
                continue
            for piece in job.source.pieces:
                if not TYPES[piece.type].decodes:
                    raise PlanError(f"{piece.type} cannot be decoded", tensor=job.source_name, fix="keep its type")
            if not TYPES[output.type].encodes:
                raise PlanError(f"{output.type} cannot be written", tensor=job.source_name, fix="choose another type")


def requantization_notes(jobs: Iterable[TensorJob]) -> list[str]:
    """What to tell of tensors that were quantized before and are decoded and quantized anew."""
    before = Counter(
        job.source.dtype
        for job in jobs
        if TYPES[job.source.dtype].block_size > 1
        and any(TYPES[out.type].block_size > 1 and not keeps_levels(job, out) for out in job.outputs)
    )
    if not before:
        return []
    counts = ", ".join(f"{count} of {name}" for name, count in before.most_common())
    return [
        f"tensors that were quantized already are decoded and quantized anew ({counts}): quality is lost; "
        "start from the unquantized model where there is one"
    ]


def rounding_notes(jobs: Iterable[TensorJob], rounded: Mapping[str, int]) -> list[str]:
    """What to tell of blocks whose levels were kept and whose scales were not. rounded: blocks by the job's name."""
    if not rounded:
        return []
    blocks = sum(job.source.n_elements // TYPES[job.source.dtype].block_size for job in jobs if job.name in rounded)
    return [
        f"scales of {sum(rounded.values())} of {blocks} blocks in {len(rounded)} tensors were rounded from 32 to 16 "
        "bits; all levels are kept"
    ]
