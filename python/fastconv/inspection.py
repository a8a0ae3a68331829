"""What a file or folder holds, without converting it: checkpoints, adapters, GGUF and GGJT files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.open import open_checkpoint
from fastconv.errors import FastconvError


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """size, offset: bytes; offset from the start of `file` to the first element."""

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    offset: int
    file: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """kind: "checkpoint", "adapter", "gguf" or "ggjt". hyperparameters: under fastconv's names where the architecture is
    known, else as stored. vocabulary: its kind and size. metadata: what the file holds beside tensors."""

    path: str
    kind: str
    format: str
    architecture: str | None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    vocabulary: dict[str, Any] = field(default_factory=dict)
    tensors: tuple[TensorInfo, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
