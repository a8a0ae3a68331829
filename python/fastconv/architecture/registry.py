"""Which architecture a checkpoint has."""

from __future__ import annotations

from typing import Any

from fastconv.architecture.llama import LLAMA
from fastconv.architecture.spec import ArchitectureSpec
from fastconv.errors import ArchitectureError

ARCHITECTURES: tuple[ArchitectureSpec, ...] = (LLAMA,)


def spec_for(config: dict[str, Any], file: str) -> ArchitectureSpec:
    """The architecture that config.json names. Raises ArchitectureError if it is unknown."""
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ArchitectureError("architectures is not a list of names", file=file, found=repr(classes))
    for spec in ARCHITECTURES:
        if any(name in spec.hf_classes for name in classes) or (not classes and config.get("model_type") == spec.name):
            return spec
    known = ", ".join(name for spec in ARCHITECTURES for name in spec.hf_classes)
    found = ", ".join(classes) or config.get("model_type") or "none"
    raise ArchitectureError("architecture is not supported", file=file, found=found, expected=f"one of {known}")
