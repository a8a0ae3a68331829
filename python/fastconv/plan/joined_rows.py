"""Tensors put one below the other, updates included: what targets that fuse projections need. Reads no data."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from fastconv.adapter.delta import LoraDelta, MergedTensor
from fastconv.architecture.litgpt.rows import inverse
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import PlanError


def joined_rows(name: str, parts: Sequence[MergedTensor], rows: array[int] | None) -> MergedTensor:
    """The parts as one tensor, whose row rows[r] is row r of the parts; rows None: in their order.

    Raises PlanError for a DoRA update of several joined parts: it rescales all rows, and the others would be too.
    """
    joined = parts[0]
    if len(parts) > 1:
        deltas: list[LoraDelta] = []
        n_rows = sum(part.base.shape[0] for part in parts)
        begin = 0
        for part in parts:
            index = np.full(n_rows, -1, dtype=np.int64)
            index[begin : begin + part.base.shape[0]] = np.arange(part.base.shape[0])
            for delta in part.deltas:
                if delta.magnitude is not None:
                    raise PlanError(
                        "a DoRA update of it cannot be joined with others",
                        tensor=part.base.name,
                        fix="merge into Hugging Face files first",
                    )
                deltas.append(delta.with_rows_or_zero(index))
            begin += part.base.shape[0]
        base = LazyTensor.joined(name, [part.base for part in parts], axis=0)
        joined = MergedTensor(base.as_column() if deltas and len(base.shape) == 1 else base, tuple(deltas))
    return joined if rows is None else joined.with_rows(inverse(rows))
