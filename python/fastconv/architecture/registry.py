"""Which architecture a checkpoint has."""

from __future__ import annotations

from typing import Any

from fastconv.architecture.hf_config import class_names
from fastconv.architecture.llama import LLAMA
from fastconv.architecture.spec import ArchitectureSpec
from fastconv.errors import ArchitectureError

ARCHITECTURES: tuple[ArchitectureSpec, ...] = (LLAMA,)


def spec_named(name: Any, file: str) -> ArchitectureSpec:
    """The architecture of this name in GGUF's general.architecture. Raises ArchitectureError if it is unknown."""
    for spec in ARCHITECTURES:
        if spec.name == name:
            return spec
    raise ArchitectureError(
        "architecture is not supported",
        file=file,
        found=name,
        expected=f"one of {', '.join(spec.name for spec in ARCHITECTURES)}",
        fix="GGUF files of any architecture can be quantized to GGUF, without --lora",
    )


def spec_for(config: dict[str, Any], file: str) -> ArchitectureSpec:
    """The architecture that config.json names. Raises ArchitectureError if it is unknown."""
    classes = class_names(config, file)
    spec = _find(classes, config)
    if spec is not None:
        return spec
    known = ", ".join(name for spec in ARCHITECTURES for name in spec.hf_classes)
    found = ", ".join(classes) or config.get("model_type") or "none"
    raise ArchitectureError("architecture is not supported", file=file, found=found, expected=f"one of {known}")


def has_table(config: dict[str, Any]) -> bool:
    """Whether config.json names an architecture with a table, or is so malformed that only spec_for can say why."""
    classes = config.get("architectures") or []
    return not isinstance(classes, list) or _find(classes, config) is not None


def _find(classes: list[Any], config: dict[str, Any]) -> ArchitectureSpec | None:
    for spec in ARCHITECTURES:
        if any(name in spec.hf_classes for name in classes) or (not classes and config.get("model_type") == spec.name):
            return spec
    return None
