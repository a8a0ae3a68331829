"""Where the tensors of a GGUF file lie, and where the file ends: rules beyond the reader's. Reads headers only.

Source: ggml, docs/gguf.md, and gguf.cpp of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.gguf import DEFAULT_ALIGNMENT
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import FileStorage
from fastconv.finding import Finding


def misplaced(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Tensors follow one another in the order of their records, each at the next aligned offset, up to the end."""
    alignment = checkpoint.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    for path, group in groupby(checkpoint.tensors.values(), key=lambda tensor: tensor.pieces[0].storage.path):
        tensors = list(group)
        if any(tensor.n_bytes == 0 and tensor.n_elements for tensor in tensors):
            continue  # of a type whose size is unknown
        end = tensors[0].pieces[0].offset
        for tensor in tensors:
            offset = tensor.pieces[0].offset
            if offset != end:
                yield Finding("is not where the tensor before it ends", tensor.name, f"offset {offset}", str(end))
            end = -(-(offset + tensor.n_bytes) // alignment) * alignment
        last = tensors[-1]
        yield from _file_end(path, last, last.pieces[0].offset + last.n_bytes, end)


def _file_end(path: str, last: LazyTensor, end: int, aligned: int) -> Iterator[Finding]:
    storage = last.pieces[0].storage
    if isinstance(storage, FileStorage) and storage.size not in (end, aligned):
        yield Finding(
            f"{path} does not end with its last tensor", last.name, f"{storage.size} bytes", f"{aligned} bytes"
        )
