"""The native engine as the rest of the program calls it: a list of TensorJobs in, bytes at their offsets out."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from fastconv import _native
from fastconv.adapter.delta import LoraDelta
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import FileStorage, input_changed
from fastconv.control_group import cpu_quotas
from fastconv.errors import NonFiniteError, UsageError
from fastconv.plan.job import TensorJob
from fastconv.record import record
from fastconv.types import TYPES

if TYPE_CHECKING:
    from fastconv.checkpoint.imatrix import Importance

Progress = Callable[[int, int], None]
"""Called with (input bytes done, input bytes in all), a few times a second."""

# How long a wait may last before the interpreter looks for signals.
_POLL_SECONDS = 0.1


@record
class RunResult:
    """delta_stats: |dW| and |W|, before the output types round, of every job with a delta, by its name.

    rounded_blocks: by its name, of every job that repacked blocks whose scales the output type had to round. n_pieces:
    that the work was divided into; n_pieces_found: those that the files held already.
    """

    delta_stats: dict[str, _native.DeltaStats]
    bytes_read: int
    rounded_blocks: dict[str, int] = field(default_factory=dict)
    n_pieces: int = 0
    n_pieces_found: int = 0

    @property
    def delta_ratios(self) -> dict[str, float]:
        """|dW| / |W|; infinite where |W| is 0 and |dW| is not."""
        return {name: _ratio(stats.delta_norm, stats.base_norm) for name, stats in self.delta_stats.items()}


class Ledger(Protocol):
    """Who remembers which pieces are done. claims: pieces that the files may hold already, of the same jobs."""

    @property
    def claims(self) -> Sequence[_native.FinishedChunk]: ...

    def keep(self, take: Callable[[], list[_native.FinishedChunk]], *, now: bool = False) -> None:
        """Called now and then; take() gives those that were written since it was called last, not yet synced."""


def run(
    jobs: Sequence[TensorJob],
    descriptors: Sequence[int],
    threads: int,
    nonfinite: str = "error",
    progress: Progress | None = None,
    *,
    direct: bool = True,
    max_memory: int | None = None,
    ledger: Ledger | None = None,
) -> RunResult:
    """Converts every job; returns when all bytes are written (not yet synced).

    descriptors: output files, open for writing, by TensorOutput.file; with a ledger for reading too. nonfinite: error,
    keep or clamp. progress: called now and then with the input bytes consumed so far and `input_bytes(jobs)`. direct:
    write past the page cache where that can be, so that a sync has little left to do. max_memory: bytes of scratch, not
    less than `least_memory(jobs)`. Raises NonFiniteError for a value that an output type cannot hold (unless told to
    keep or clamp it), CheckpointError for an input that changes during the run or that cannot be mapped, OSError if a
    write fails, MemoryError. After any exception, KeyboardInterrupt included, no thread writes any more.
    """
    _native.return_free_memory()
    total = 0 if progress is None else input_bytes(jobs)
    claims = None if ledger is None else ledger.claims
    native = _native.Run(
        [_native_job(job) for job in jobs],
        descriptors,
        threads,
        nonfinite,
        direct=direct,
        max_memory=max_memory or 0,
        finished=claims,
    )
    is_done = False
    try:
        while not native.wait(_POLL_SECONDS):
            if progress is not None:
                progress(native.bytes_done, total)
            if ledger is not None:
                ledger.keep(native.take_finished)
        is_done = True
    except _native.NonFiniteValue as error:
        for storage in _input_files(jobs):
            storage.check_unchanged()  # what is read while a file changes can be anything
        raise _non_finite(jobs, *error.args) from None
    except _native.InputChanged as error:
        raise input_changed(error.args, _input_files(jobs)) from None
    finally:
        native.cancel()
        if ledger is not None and not is_done:
            # What stopped the run is to be told, not that its remains could not be kept.
            with contextlib.suppress(OSError):
                ledger.keep(native.take_finished, now=True)
    for storage in _input_files(jobs):
        storage.check_unchanged()
    if progress is not None:
        progress(native.bytes_done, total)
    stats = {job.name: stats for job, stats in zip(jobs, native.delta_stats(), strict=True) if stats is not None}
    rounded = {job.name: count for job, count in zip(jobs, native.rounded_blocks(), strict=True) if count}
    return RunResult(stats, native.bytes_done, rounded, native.n_chunks, native.n_chunks_found)


def compare(
    pairs: Sequence[tuple[TensorJob, LazyTensor | None]],
    threads: int,
    progress: Progress | None = None,
) -> list[_native.ComparisonStats]:
    """Holds tensors of a file against what their jobs, of one output each, would write; nothing is written.

    None in place of a tensor: the job's source is the file's own and is only looked through for values that are not
    finite. Raises CheckpointError for an input that changes during the run. After any exception no thread is left.
    """
    jobs = [job for job, _ in pairs]
    stored = [tensor for _, tensor in pairs if tensor is not None]
    total = 0 if progress is None else input_bytes(jobs)
    native = _native.Comparison(
        [(_native_job(job), None if tensor is None else tensor.native()) for job, tensor in pairs], threads
    )
    try:
        while not native.wait(_POLL_SECONDS):
            if progress is not None:
                progress(native.bytes_done, total)
    except _native.InputChanged as error:
        raise input_changed(error.args, _input_files(jobs, stored)) from None
    finally:
        native.cancel()
    for storage in _input_files(jobs, stored):
        storage.check_unchanged()
    if progress is not None:
        progress(native.bytes_done, total)
    return native.stats()


def input_bytes(jobs: Sequence[TensorJob]) -> int:
    """Stored bytes of all that the jobs read, adapters aside; a row that is drawn twice counts twice."""
    return sum(_stored_bytes(job.source) for job in jobs)


def least_memory(jobs: Sequence[TensorJob]) -> int:
    """Bytes of scratch, at most, of a run with one thread and the smallest buffers."""
    n_files = 1 + max((output.file for job in jobs for output in job.outputs), default=0)
    return _native.least_memory([_native_job(job) for job in jobs], n_files)


def instruction_set() -> str:
    """The instruction set in use. Raises UsageError if FASTCONV_ISA names one that is unknown or not to be had here."""
    try:
        return _native.isa()
    except ValueError as error:
        raise UsageError(str(error)) from None


def default_threads() -> int:
    """CPUs that this process may use: affinity and, on Linux, the quota of its control group (v1 or v2)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota in cpu_quotas():
        cpus = min(cpus, max(1, math.ceil(quota)))
    return cpus


def _ratio(delta_norm: float, base_norm: float) -> float:
    if delta_norm == 0:
        return 0.0
    return delta_norm / base_norm if base_norm > 0 else math.inf


def _native_job(job: TensorJob) -> _native.Job:
    return _native.Job(
        job.name,
        job.source.native(),
        [_native_delta(delta) for delta in job.deltas],
        [_native.Output(output.file, output.type, output.offset) for output in job.outputs],
        None if job.importance is None else _native_importance(job.importance),
    )


def _native_importance(importance: Importance) -> _native.Importance:
    return _native.Importance(importance.sums.native(), importance.counts)


def _native_delta(delta: LoraDelta) -> _native.Delta:
    magnitude = None if delta.magnitude is None else delta.magnitude.native()
    return _native.Delta(delta.b.native(), delta.a.native(), delta.scale, magnitude)


def _stored_bytes(tensor: LazyTensor) -> int:
    per_row: dict[tuple[int, int], int] = {}
    for piece in tensor.pieces:
        info = TYPES[piece.type]
        extent = (piece.row, piece.n_rows)
        per_row[extent] = per_row.get(extent, 0) + piece.n_cols // info.block_size * info.block_bytes
    if tensor.rows is None:
        return sum(n_rows * size for (_, n_rows), size in per_row.items())
    if len(set(per_row)) == 1:
        return len(tensor.rows) * sum(per_row.values())
    return sum(
        sum(first <= row < first + n_rows for row in tensor.rows) * size for (first, n_rows), size in per_row.items()
    )


def _non_finite(
    jobs: Sequence[TensorJob], index: int, row: int, column: int, value: float, type_name: str
) -> NonFiniteError:
    job = jobs[index]
    if job.source.rows is not None:
        row = job.source.rows[row]  # the file's own row, as the name is the file's own
    storage = next(
        p.storage for p in job.source.pieces if p.row <= row < p.row + p.n_rows and p.col <= column < p.col + p.n_cols
    )
    overflows = math.isfinite(value)
    merged = " after the merge" if job.deltas else ""
    return NonFiniteError(
        f"row {row}, column {column} is {value:.9g}{merged}"
        + (f", which overflows {type_name} (largest {TYPES[type_name].max_abs:.9g})" if overflows else ""),
        file=storage.path,
        tensor=job.source_name,
        fix="use --nonfinite clamp or --nonfinite keep to convert it all the same",
    )


def _input_files(jobs: Sequence[TensorJob], others: Sequence[LazyTensor] = ()) -> list[FileStorage]:
    """All files that the jobs read, each once, and those of other tensors."""
    read = (tensor for job in jobs for tensor in (job.source, *job.factors))
    storages = (piece.storage for tensor in (*read, *others) for piece in tensor.pieces)
    return list(dict.fromkeys(storage for storage in storages if isinstance(storage, FileStorage)))
