"""Finds the state dict in what a PyTorch checkpoint holds. Knows dictionaries, not how tensors are stored."""

from __future__ import annotations

from typing import Any, TypeVar

from fastconv.errors import CheckpointError

Tensor = TypeVar("Tensor")

# Under these keys training scripts save the model beside optimizer and counters.
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")


def find_state_dict(root: Any, tensor_type: type[Tensor], file: str) -> dict[str, Tensor]:
    """The named tensors of a state dict, or of the one that `root` wraps; other values are metadata and dropped.

    Raises CheckpointError where there is no state dict, more than one, or one with dictionaries of tensors inside.
    """

    def holds_tensors(value: Any) -> bool:
        return isinstance(value, dict) and any(isinstance(item, tensor_type) for item in value.values())

    if not isinstance(root, dict):
        raise CheckpointError("holds no dictionary of tensors", file=file, found=type(root).__name__)
    if not holds_tensors(root):
        inner = [key for key in WRAPPERS if holds_tensors(root.get(key))]
        if len(inner) != 1:
            keys = ", ".join(str(key)[:40] for key in list(root)[:8]) or "none"
            expected = f"tensors, or one of {', '.join(WRAPPERS)}"
            raise CheckpointError(
                "holds no single state dict",
                file=file,
                found=f"keys {keys}",
                expected=expected,
            )
        root = root[inner[0]]
    tensors: dict[str, Tensor] = {}
    for name, value in root.items():
        if isinstance(value, tensor_type):
            if not isinstance(name, str):
                raise CheckpointError("a tensor's name is not a string", file=file, found=repr(name)[:80])
            tensors[name] = value
        elif holds_tensors(value):
            raise CheckpointError(
                "holds a dictionary of tensors beside tensors",
                file=file,
                found=str(name)[:80],
                expected="a flat state dict",
            )
    return tensors
