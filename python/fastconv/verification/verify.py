"""The whole verification on one page: open the file, hold it against the rules, its checksum and its source."""

from __future__ import annotations

import os
import time

from fastconv import engine
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.open import open_checkpoint
from fastconv.engine import Progress
from fastconv.errors import CheckpointError, UsageError, system_errors_told
from fastconv.finding import Finding
from fastconv.layout.sha256_file import SUFFIX, sha256, sum_beside
from fastconv.paths import exists, is_file, is_folder
from fastconv.plan.job import TensorJob, TensorOutput
from fastconv.record import record
from fastconv.request import MOST_THREADS, Adapters, ConvertRequest, adapter_pairs
from fastconv.types import TYPES
from fastconv.verification.expected import Expected, expected, request_for
from fastconv.verification.findings import TensorCheck, Verification
from fastconv.verification.structure import broken_rules
from fastconv.verification.verdict import Compared, not_finite_in_words, verdicts


def verify(
    path: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    lora: Adapters = (),
    imatrix: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check a GGUF, GGML or safetensors file, or a model folder, and every tensor against its source if one is given.

    against: the checkpoint that it was made of. lora: the adapters, as in convert. imatrix: the importance matrix that
    it was quantized with. Memory stays flat. Raises FastconvError subclasses for what keeps the file from being checked
    at all; what is wrong with it stands in the result.
    """
    adapters = adapter_pairs(lora)
    request = None
    if against is not None:
        request = ConvertRequest(source=os.fspath(against), adapters=adapters, threads=threads)
    elif adapters:
        raise UsageError("lora needs the model that the adapters go with", fix="give against")
    return verify_request(
        os.fspath(path), request, None if imatrix is None else os.fspath(imatrix), threads=threads, progress=progress
    )


@system_errors_told()
def verify_request(
    path: str,
    request: ConvertRequest | None,
    imatrix: str | None = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """verify() with all options of a conversion. request: of the source; its target and types are the file's."""
    started = time.perf_counter()
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UsageError("--concurrency is out of range", found=threads, expected=f"1 to {MOST_THREADS}")
    engine.instruction_set()
    threads = threads or engine.default_threads()
    checksum, findings = _checksums(path)
    if not exists(path):
        raise CheckpointError("does not exist", file=path)
    kind, held = "unreadable", _Contents()
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError as error:
        findings.append(Finding.of(error))
    else:
        kind, held = checkpoint.format, _checked(checkpoint, request, imatrix, threads, progress)
    return Verification(
        path,
        kind,
        None if request is None else request.source,
        () if request is None else tuple(adapter for adapter, _ in request.adapters),
        held.n_tensors,
        (*findings, *held.findings),
        held.tensors,
        checksum,
        held.notes,
        held.bytes_read,
        time.perf_counter() - started,
    )


@record
class _Contents:
    """What was found in a file that can be read. The fields are those of Verification."""

    n_tensors: int = 0
    findings: tuple[Finding, ...] = ()
    tensors: tuple[TensorCheck, ...] = ()
    notes: tuple[str, ...] = ()
    bytes_read: int = 0


def _checked(
    checkpoint: Checkpoint,
    request: ConvertRequest | None,
    imatrix: str | None,
    threads: int,
    progress: Progress | None,
) -> _Contents:
    broken, notes = broken_rules(checkpoint)
    n_tensors = len(checkpoint.tensors)
    if request is None:
        bytes_read, more = _look_through(checkpoint, threads, notes, progress)
        return _Contents(n_tensors, (*broken, *more), notes=tuple(notes), bytes_read=bytes_read)
    wanted = expected(checkpoint, request_for(checkpoint, request), imatrix)
    is_weighted = "quantize.imatrix.file" in checkpoint.metadata and imatrix is None
    if is_weighted:
        notes.append("was quantized with an importance matrix: without --imatrix errors are compared, not bytes")
    checks, bytes_read = _compare(checkpoint, wanted, threads, progress, is_weighted=is_weighted)
    known = {(finding.what, finding.tensor) for finding in broken}
    others = (finding for finding in wanted.findings if (finding.what, finding.tensor) not in known)
    return _Contents(n_tensors, (*broken, *others), tuple(checks), (*notes, *wanted.notes), bytes_read)


def _checksums(path: str) -> tuple[str | None, list[Finding]]:
    """Of a file, or of every file of a folder that has one beside it."""
    paths = [path]
    if is_folder(path):
        paths = [
            os.path.join(path, name.removesuffix(SUFFIX)) for name in sorted(os.listdir(path)) if name.endswith(SUFFIX)
        ]
    findings, is_stated = [], False
    for file in paths:
        stated = sum_beside(file) if is_folder(path) or is_file(file) else None
        if stated is None:
            continue
        is_stated = True
        if not exists(file):
            findings.append(Finding(f"{file} is missing: its SHA-256 is there"))
            continue
        try:
            found = sha256(file)
        except OSError as error:
            raise CheckpointError(f"cannot be read ({error.strerror})", file=file) from None
        if found != stated:
            name = "its SHA-256" if file == path else f"the SHA-256 of {file}"
            findings.append(Finding(f"{name} is not the one beside it", None, found, stated))
    return ("off" if findings else "ok") if is_stated else None, findings


def _look_through(
    checkpoint: Checkpoint, threads: int, notes: list[str], progress: Progress | None
) -> tuple[int, list[Finding]]:
    """Every value that can be decoded, parts of a model included: NaN or infinity mean a damaged scale."""
    tensors = [tensor for part in (checkpoint.parts or (checkpoint.tensors,)) for tensor in part.values()]
    decoded = [
        tensor for tensor in tensors if tensor.dtype in TYPES and TYPES[tensor.dtype].decodes and tensor.n_elements
    ]
    others = sorted({tensor.dtype for tensor in tensors} - {tensor.dtype for tensor in decoded})
    if others:
        notes.append(f"values of type {', '.join(others)} were not looked through: it cannot be decoded")
    jobs = [
        TensorJob(tensor.name, tensor.name, tensor.shape, tensor, (), (TensorOutput(0, tensor.dtype, 0, 0),))
        for tensor in decoded
    ]
    findings = []
    for job, stats in zip(jobs, engine.compare([(job, None) for job in jobs], threads, progress), strict=True):
        if stats.not_finite:
            row, column = divmod(stats.first_not_finite, max(job.source.n_cols, 1))
            findings.append(Finding(not_finite_in_words(stats.not_finite, row, column), tensor=job.name))
    return engine.input_bytes(jobs), findings


def _compare(
    checkpoint: Checkpoint, wanted: Expected, threads: int, progress: Progress | None, *, is_weighted: bool
) -> tuple[list[TensorCheck], int]:
    """In the order of the file. The run goes through the source as it lies on the disk."""
    order = sorted(wanted.pairs, key=lambda pair: _place(pair[0]))
    found = engine.compare(order, threads, progress)
    compared = [Compared(job.name, stored, job, stats) for (job, stored), stats in zip(order, found, strict=True)]
    checks = {check.name: check for check in verdicts(compared, is_weighted=is_weighted)}
    for name, reason in wanted.unchecked.items():
        stored = checkpoint.tensors[name]
        checks[name] = TensorCheck(name, stored.dtype, stored.shape, "unchecked", reason)
    jobs = [job for job, _ in order]
    return [checks[name] for name in checkpoint.tensors if name in checks], engine.input_bytes(jobs)


def _place(job: TensorJob) -> tuple[str, int]:
    piece = job.source.pieces[0]
    return getattr(piece.storage, "path", ""), piece.offset
