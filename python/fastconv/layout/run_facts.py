"""Everything that decides the bytes of a run and their division into pieces, as short texts that can be told apart.

Facts are compared, never trusted: what they say was done is checked against the data as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence

from fastconv import _native
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import FileStorage
from fastconv.layout.laid_out import LaidOut
from fastconv.layout.provenance import TOLD_ELSEWHERE, version
from fastconv.layout.resume_journal import Facts
from fastconv.layout.sha256_file import sha256
from fastconv.plan.job import TensorJob
from fastconv.request import ConvertRequest

# At both ends of an input: headers, indices, and what a copy that was cut short lacks.
_END_BYTES = 64 << 10


def run_facts(
    request: ConvertRequest, folder: str, targets: Sequence[tuple[str, LaidOut]], jobs: Sequence[TensorJob]
) -> Facts:
    """Section -> name -> value. folder: of the journal; targets: path and layout of every output file.

    Inputs are told by size, times of change, inode and both ends; adapters by their SHA-256. Raises OSError.
    """
    return {
        "program": {"fastconv": version(), "its native code": sha256(_native.__file__)},
        "options": {
            f"--{field.name.replace('_', '-')}": repr(getattr(request, field.name))
            for field in dataclasses.fields(request)
            if field.name not in TOLD_ELSEWHERE
        },
        "files": _files(targets, jobs),
        "targets": {os.path.relpath(path, folder): str(laid_out.size) for path, laid_out in targets},
        "output": {
            "headers": _headers([laid_out for _, laid_out in targets]),
            "tensors": _tensors(jobs),
        },
    }


def _files(targets: Sequence[tuple[str, LaidOut]], jobs: Sequence[TensorJob]) -> Mapping[str, str]:
    told: dict[str, str] = {}
    for tensor in (factor for job in jobs for factor in job.factors):
        for storage in _storages(tensor):
            if storage.path not in told:
                told[storage.path] = f"{_state(storage)} {sha256(storage.path)}"
    bases = (storage for job in jobs for storage in _storages(job.source))
    copied = (part.storage for _, laid_out in targets for part in laid_out.copied)
    for storage in (*bases, *copied):
        if storage.path not in told:
            told[storage.path] = f"{_state(storage)} {_ends(storage)}"
    return {os.path.realpath(path): state for path, state in told.items()}


def _storages(tensor: LazyTensor) -> Iterable[FileStorage]:
    return (piece.storage for piece in tensor.pieces if isinstance(piece.storage, FileStorage))


def _state(storage: FileStorage) -> str:
    # The time of modification can be set to what it was; that of the last change to the inode cannot.
    status = os.fstat(storage.fileno())
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _ends(storage: FileStorage) -> str:
    n = min(_END_BYTES, storage.size)
    return hashlib.sha256(storage.read(0, n) + storage.read(storage.size - n, n)).hexdigest()


def _headers(layouts: Sequence[LaidOut]) -> str:
    digest = hashlib.sha256()
    for laid_out in layouts:
        for offset, data in laid_out.chunks:
            digest.update(f"{offset} {len(data)}\n".encode())
            digest.update(data)
        for part in laid_out.copied:
            digest.update(f"copied {part.offset} {part.storage.path!r} {part.start} {part.size}\n".encode())
        digest.update(f"{laid_out.checksums} {laid_out.size}\n".encode())
    return digest.hexdigest()


def _tensors(jobs: Sequence[TensorJob]) -> str:
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(f"{job.name!r} {job.outputs}\n".encode())
        _describe(job.source, digest)
        for delta in job.deltas:
            digest.update(f"delta {delta.scale.hex()} {delta.magnitude is not None}\n".encode())
        if job.importance is not None:
            digest.update(f"importance {job.importance.counts}\n".encode())
        for factor in job.factors:
            _describe(factor, digest)
    return digest.hexdigest()


def _describe(tensor: LazyTensor, digest: hashlib._Hash) -> None:
    digest.update(f"{tensor.n_rows} {tensor.n_cols} {tensor.rows is not None}\n".encode())
    if tensor.rows is not None:
        digest.update(tensor.rows.tobytes())
    for p in tensor.pieces:
        place = (p.type, p.offset, p.row_stride, p.col_stride, p.row, p.n_rows, p.col, p.n_cols)
        digest.update(f"{p.storage.path!r} {place}\n".encode())
        if not isinstance(p.storage, FileStorage):
            digest.update(p.storage.array.tobytes())
