"""Sources of tensors: files are opened and checked here, and nothing is read before it is needed."""

from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.open import open_checkpoint

__all__ = ["Checkpoint", "LazyTensor", "open_checkpoint"]
