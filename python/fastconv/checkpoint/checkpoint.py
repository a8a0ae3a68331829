"""What every reader returns: lazy tensors by source name, and the files beside them."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.record import record


@record
class FileContents:
    """What one file holds. The fields are those of Checkpoint."""

    format: str
    tensors: dict[str, LazyTensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    encoded: dict[str, memoryview] = field(default_factory=dict)
    parts: tuple[dict[str, LazyTensor], ...] = ()


@record
class Checkpoint:
    """An opened source; no tensor data has been read.

    path: what the user named, a directory or file. directory: where config and tokenizer files are looked for. format:
    "safetensors", "torch", "gguf", "ggjt" (the whole GGML family). files: every tensor file, in order. tensors: by name
    as stored, in the order of the files. config: config.json or params.json, {} if there is none. metadata: what the
    format itself holds beside tensors (GGUF key-values, safetensors __metadata__, the GGJT header), by its own keys;
    arrays of GGUF as GgufArrays.
    encoded: GGUF's key-values as stored, type and value, to be written as they are.
    parts: the model-parallel parts of a Meta or early GGML model, in order, each with the same names, which `tensors`
    then holds of part 0; () for every other source.
    """

    path: str
    directory: str
    format: str
    files: tuple[str, ...]
    tensors: dict[str, LazyTensor]
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    encoded: dict[str, memoryview] = field(default_factory=dict)
    parts: tuple[dict[str, LazyTensor], ...] = ()

    @property
    def is_self_contained(self) -> bool:
        """Whether its files say all, hyperparameters and vocabulary too, as GGUF's and the GGML family's do."""
        return self.format in ("gguf", "ggjt")
