"""Opens a PEFT adapter: its configuration, and its tensors by module. Knows no model.

Sources: PEFT 0.21, utils/save_and_load.py (names), tuners/lora (meaning).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from fastconv.adapter.config import LoraConfig, read_lora_config
from fastconv.adapter.names import Part, parse_name
from fastconv.checkpoint.content import same_content
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.open import open_checkpoint
from fastconv.errors import AdapterError
from fastconv.paths import exists, is_folder
from fastconv.record import record
from fastconv.types import TYPES

_WEIGHT_NAMES = ("adapter_model.safetensors", "adapter_model.bin")  # PEFT too prefers the first


@record
class LoraPair:
    """The factors of one module's update, as stored. module: as PEFT names it."""

    module: str
    a: LazyTensor
    b: LazyTensor
    b_bias: LazyTensor | None
    magnitude: LazyTensor | None
    is_embedding: bool


@record
class WholeTensor:
    """A tensor that stands for one of the model's. name: the model's, as PEFT spells it. is_base: an update trained
    before or with it is added on top of it, rather than lost."""

    name: str
    tensor: LazyTensor
    is_base: bool


@record
class PeftAdapter:
    """An opened adapter; every one of its n_tensors tensors is in pairs or whole. file: the one with the tensors."""

    path: str
    file: str
    config: LoraConfig
    n_tensors: int
    pairs: tuple[LoraPair, ...]
    whole: tuple[WholeTensor, ...]


@dataclass(slots=True)
class _Module:
    parts: dict[tuple[Part, str], LazyTensor] = field(default_factory=dict)


def open_peft_adapter(path: str | os.PathLike[str]) -> PeftAdapter:
    """path: the adapter's directory, or its tensor file with adapter_config.json beside it.

    Raises AdapterError for a configuration that is missing or not supported, a tensor of unknown name or type, and
    factors that do not make pairs; CheckpointError for a file that is no checkpoint.
    """
    path = os.fspath(path)
    file = adapter_file(path)
    config = read_lora_config(os.path.dirname(file))
    tensors = open_checkpoint(file).tensors
    modules: dict[str, _Module] = {}
    for name, tensor in tensors.items():
        check_type(file, tensor)
        parsed = parse_name(name)
        if parsed is None:
            raise AdapterError("is not a tensor of a LoRA adapter", file=file, tensor=name)
        parts = modules.setdefault(parsed.module, _Module()).parts
        key = (parsed.part, parsed.parameter)
        if key in parts:
            raise AdapterError(
                "appears twice",
                file=file,
                tensor=name,
                found=f"also {parts[key].name}",
                fix="keep one adapter per file",
            )
        parts[key] = tensor
    pairs: list[LoraPair] = []
    whole: list[WholeTensor] = []
    for name, module in modules.items():
        whole += _whole_tensors(file, name, module.parts)
        pairs += _pairs(file, config, name, module.parts)
    return PeftAdapter(path, file, config, len(tensors), tuple(pairs), tuple(whole))


def adapter_file(path: str) -> str:
    """The file with the tensors of an adapter's directory, or the file itself. Raises AdapterError if there is none."""
    if not is_folder(path):
        if not exists(path):
            raise AdapterError("does not exist", file=path)
        return path
    for name in _WEIGHT_NAMES:
        file = os.path.join(path, name)
        if exists(file):
            return file
    raise AdapterError("holds no adapter", file=path, expected=" or ".join(_WEIGHT_NAMES))


def check_type(file: str, tensor: LazyTensor) -> None:
    """Raises AdapterError for a tensor without values."""
    info = TYPES.get(tensor.dtype)
    if info is None or not info.decodes or info.block_size != 1:
        raise AdapterError(
            "has a type that cannot be applied",
            file=file,
            tensor=tensor.name,
            found=tensor.dtype,
            expected=", ".join(name for name, info in TYPES.items() if info.decodes and info.block_size == 1),
        )


def _whole_tensors(file: str, module: str, parts: dict[tuple[Part, str], LazyTensor]) -> Iterable[WholeTensor]:
    """PEFT saves a trained module once, or, after the vocabulary was resized, three times: as itself, as
    modules_to_save and, untrained, as original_module."""
    for parameter in ("weight", "bias"):
        saved, copy = parts.get((Part.SAVED, parameter)), parts.get((Part.MODULES_TO_SAVE, parameter))
        original, base = parts.get((Part.ORIGINAL, parameter)), parts.get((Part.BASE, parameter))
        trained = saved or copy
        if saved and copy and not same_content(saved, copy):
            raise AdapterError(
                "disagrees with its copy", file=file, tensor=copy.name, found=f"other values in {saved.name}"
            )
        if original and not trained:
            raise AdapterError(
                "is what training began with, but what it ended with is missing",
                file=file,
                tensor=original.name,
                expected=f"{module}.{parameter}",
            )
        for tensor in (trained, base):
            if tensor:
                yield WholeTensor(f"{module}.{parameter}", tensor, is_base=tensor is base)


def _pairs(file: str, config: LoraConfig, module: str, parts: dict[tuple[Part, str], LazyTensor]) -> Iterable[LoraPair]:
    linear = [parts.get((part, "weight")) for part in (Part.A, Part.B)]
    embedding = [parts.get((part, "weight")) for part in (Part.EMBEDDING_A, Part.EMBEDDING_B)]
    magnitude, b_bias = parts.get((Part.MAGNITUDE, "weight")), parts.get((Part.B_BIAS, "bias"))
    present = [tensor for tensor in (*linear, *embedding, magnitude, b_bias) if tensor]
    if not present:
        return
    is_embedding = any(embedding)
    if any(linear) and is_embedding:
        raise AdapterError("the module has both kinds of factors", file=file, tensor=present[-1].name)
    kinds = (Part.EMBEDDING_A, Part.EMBEDDING_B) if is_embedding else (Part.A, Part.B)
    a, b = embedding if is_embedding else linear
    if a is None or b is None:
        missing = kinds[0] if a is None else kinds[1]
        raise AdapterError(f"has no {missing.value} beside it", file=file, tensor=present[0].name)
    for flag, wanted, part, tensor in (
        ("use_dora", config.use_dora, Part.MAGNITUDE, magnitude),
        ("lora_bias", config.lora_bias, Part.B_BIAS, b_bias),
    ):
        if wanted and tensor is None:
            raise AdapterError(f"has no {part.value} beside it", file=file, tensor=a.name, expected=f"{flag} is true")
        if tensor is not None and not wanted:
            raise AdapterError(f"{flag} is not set in adapter_config.json", file=file, tensor=tensor.name)
    yield LoraPair(module, a, b, b_bias, magnitude, is_embedding)
