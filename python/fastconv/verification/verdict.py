"""Which errors a type may make, and which mean that a tensor is not what it should be.

Bytes come first: quantizers are deterministic, so a file of fastconv's, or of llama.cpp's default build, holds exactly
what its source encodes to, and one flipped bit shows. Where most tensors of a type differ, another encoder (an
importance matrix, fused multiply-adds) or another arithmetic of the merge made them. Then errors decide, measured
against those of fastconv's own encoding of the same values, which is what the type reaches on just these.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from fastconv import _native
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.plan.job import TensorJob
from fastconv.record import record
from fastconv.types import TYPES
from fastconv.verification.findings import TensorCheck

# From how many tensors of a type on, and from which part of them, differences are an encoder's and no damage.
_ENCODER_TENSORS, _ENCODER_PART = 3, 0.5
# Or, where too few others of the type are exact to tell: from how many blocks of one on, and from which part of them.
_ENCODER_BLOCKS, _ENCODER_BLOCK_PART = 16, 1e-3
# Up to which part of the blocks a defect is told by its place.
_FEW_PART = 0.05
# RMSE of another encoder, as a multiple of our own: it differs in ties, or weighs by importance, where types of few
# bits come to 1.5.
_RMSE_FACTOR, _WEIGHTED_RMSE_FACTOR = 1.05, 2.0
# What a detour over f16 may add, as a part of the values, and what one of merged weights over bf16 may.
_DETOUR, _MERGED_DETOUR = 2.0**-10, 2.0**-8
# Correlation with the source, as a part of that of our own encoding: that of another tensor is near zero.
_LEAST_CORRELATION = 0.5
# Of types that are only decoded: RMSE as a part of the values. Shannon's bound for b bits is 2^-b.
_BOUND_FACTOR, _LARGEST_BOUND = 3.0, 0.8
# Which part of the differing blocks is the base's own where adapters were forgotten.
_BASE_PART = 0.75
_FORGOTTEN = "the adapters' change is not in it: the file holds the base's weights"
# How far the share of the adapters' change may be from 1, in itself and in standard deviations of its estimate.
_SHARE_SLACK, _SHARE_DEVIATIONS, _LEAST_PRECISION = 0.25, 6.0, 0.5


@record
class Compared:
    """A tensor of the file, the job that it should be the output of, and what was found."""

    name: str
    stored: LazyTensor
    job: TensorJob
    stats: _native.ComparisonStats

    @property
    def encodes(self) -> bool:
        """Whether bytes were compared."""
        return self.job.outputs[0].type == self.stored.dtype

    @property
    def differs(self) -> bool:
        return self.stats.differing_blocks > 0


def verdicts(compared: Sequence[Compared], *, is_weighted: bool) -> list[TensorCheck]:
    """What to say of each tensor, in order. is_weighted: by an importance matrix that is not at hand."""
    factor = _WEIGHTED_RMSE_FACTOR if is_weighted else _RMSE_FACTOR
    errors = [_error(one, factor) for one in compared]
    groups: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for index, one in enumerate(compared):
        if one.encodes:
            groups[one.stored.dtype, bool(one.job.deltas)].append(index)
    isolated: set[int] = set()
    for members in groups.values():
        # What is wrong by its values says nothing about the encoder.
        differing = [index for index in members if compared[index].differs and not errors[index]]
        if len(differing) >= max(_ENCODER_TENSORS, _ENCODER_PART * len(members)):
            continue
        has_peers = len(members) - len(differing) >= _ENCODER_TENSORS
        for index in differing:
            stats = compared[index].stats
            if stats.rounded_blocks == stats.differing_blocks:
                continue
            few = stats.differing_blocks < max(_ENCODER_BLOCKS, _ENCODER_BLOCK_PART * stats.blocks)
            if has_peers or few:
                isolated.add(index)
    return [
        _check(one, errors[index] or (_damage(one) if index in isolated else "")) for index, one in enumerate(compared)
    ]


def _check(one: Compared, reason: str) -> TensorCheck:
    stats, n = one.stats, max(one.stats.elements, 1)
    state = "off" if reason else "exact" if one.encodes and not one.differs else "close"
    if not _has_values(one):
        return TensorCheck(
            one.name,
            one.stored.dtype,
            one.stored.shape,
            state,
            reason,
            blocks=stats.blocks,
            differing=stats.differing_blocks,
        )
    norms = math.sqrt(stats.source * stats.stored)
    correlation = (stats.source + stats.stored - stats.error) / 2
    return TensorCheck(
        one.name,
        one.stored.dtype,
        one.stored.shape,
        state,
        reason,
        rmse=math.sqrt(stats.error / n),
        max_error=stats.max_error,
        max_error_at=_place(one, stats.max_error_at),
        snr_db=math.inf if stats.error == 0 else 10 * math.log10(max(stats.source, 1e-300) / stats.error),
        cosine=1.0 if stats.error == 0 else correlation / norms if norms > 0 else 0.0,
        own_rmse=math.sqrt(stats.own_error / n) if one.encodes else None,
        blocks=stats.blocks,
        differing=stats.differing_blocks,
        delta_share=_delta_share(stats) if one.job.deltas else None,
        delta_ratio=math.sqrt(stats.delta / stats.source) if one.job.deltas and stats.source > 0 else None,
    )


def _error(one: Compared, factor: float) -> str:
    """What is wrong with the values, "" if nothing is. factor: of the encoder's RMSE to our own."""
    stats = one.stats
    if not _has_values(one):
        return "its bytes are not the source's" if one.differs else ""
    if stats.not_finite:
        row, column = _place(one, stats.first_not_finite) or (0, 0)
        blame = ", in the source too" if stats.source_not_finite else ": a scale or value is damaged"
        return f"{not_finite_in_words(stats.not_finite, row, column)}{blame}"
    if one.encodes and not one.differs:
        return ""
    if one.encodes and stats.base_blocks > _BASE_PART * stats.differing_blocks:
        return _FORGOTTEN
    if stats.stored == 0 < stats.source:
        return "all its values are zero"
    share = _delta_share(stats) if one.job.deltas else None
    # The error of quantizing is all but independent of what the adapters add, however small that is: over n elements
    # its part along dW has the deviation rmse / |dW|.
    deviation = math.sqrt(stats.error / stats.elements / stats.delta) if share is not None else math.inf
    slack = max(_SHARE_SLACK, _SHARE_DEVIATIONS * deviation)
    if share is not None and slack <= _LEAST_PRECISION and abs(1 - share) > slack:
        if abs(share) <= slack:
            return _FORGOTTEN
        return f"holds {share:.2f} of the adapters' change"
    in_blocks = ""
    if stats.far_blocks:
        row, column = _place(one, stats.first_far) or (0, 0)
        in_blocks = (
            f"{stats.far_blocks} of {stats.blocks} blocks err beyond what their type does, the first in row {row}, "
            f"column {column}"
        )
        if stats.differing_blocks <= _FEW_PART * stats.blocks:
            return in_blocks
    correlation = stats.source + stats.stored - stats.error
    own = stats.source + stats.stored - stats.own_error if one.encodes else min(stats.source, stats.stored)
    if stats.source > 0 and correlation < _LEAST_CORRELATION * own:
        return "its values have little to do with the source's: another tensor, or other rows"
    detour = (_MERGED_DETOUR if one.job.deltas else _DETOUR) * math.sqrt(stats.source)
    if one.encodes:
        bound = factor * math.sqrt(stats.own_error) + detour
    else:
        bound = _typical_error(one.stored.dtype) * math.sqrt(stats.source) + detour
    if math.sqrt(stats.error) > bound:
        n = stats.elements
        return f"RMSE {math.sqrt(stats.error / n):.3g} is beyond {bound / math.sqrt(n):.3g}, what its type reaches"
    return in_blocks


def not_finite_in_words(count: int, row: int, column: int) -> str:
    if count == 1:
        return f"a value is not finite, in row {row}, column {column}"
    return f"{count} values are not finite, the first in row {row}, column {column}"


def _damage(one: Compared) -> str:
    row, column = _place(one, one.stats.first_differing) or (0, 0)
    return (
        f"{one.stats.differing_blocks} of {one.stats.blocks} blocks are not what the source encodes to, the first in "
        f"row {row}, column {column}: damaged"
    )


def _has_values(one: Compared) -> bool:
    return all(TYPES[piece.type].decodes for piece in one.job.source.pieces)


def _typical_error(type_name: str) -> float:
    """The largest RMSE of a type that only decodes, as a part of the values."""
    info = TYPES[type_name]
    bits = 8 * info.block_bytes / info.block_size
    return min(_BOUND_FACTOR * math.pow(2, -bits), _LARGEST_BOUND)


def _delta_share(stats: _native.ComparisonStats) -> float | None:
    """<y - W, dW> / |dW|^2, by the norms of the three sides."""
    if stats.delta == 0:
        return None
    return (stats.base_error + stats.delta - stats.error) / (2 * stats.delta)


def _place(one: Compared, element: int) -> tuple[int, int] | None:
    return None if element < 0 else divmod(element, max(one.stored.shape[-1] if one.stored.shape else 1, 1))
