"""Names of tensors in PEFT adapters of all ages -> module and part. Knows no model."""

from __future__ import annotations

from enum import Enum

from fastconv.record import record

# Wrappers that leave a word in state-dict names: torch.compile, FSDP, activation checkpointing.
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))


class Part(Enum):
    """What a tensor is to its module. The last four are whole tensors: trained (SAVED, MODULES_TO_SAVE), what training
    began with (ORIGINAL), and what the update is added to (BASE)."""

    A = "lora_A"
    B = "lora_B"
    B_BIAS = "lora_B bias"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    MAGNITUDE = "lora_magnitude_vector"
    SAVED = "saved"
    MODULES_TO_SAVE = "modules_to_save"
    ORIGINAL = "original_module"
    BASE = "base_layer"


@record(eq=True)
class AdapterTensorName:
    """module: as PEFT matches it, "model.layers.0.mlp.up_proj". parameter: "weight" or "bias" of that module."""

    module: str
    part: Part
    parameter: str


def parse_name(name: str) -> AdapterTensorName | None:
    """None where the name follows no form that PEFT has used.

    Forms, after "base_model.model." or without it, and with or without an adapter's name at the star:
    MODULE.lora_A.*.weight, MODULE.lora_B.*.weight and .bias; MODULE.lora_embedding_A.*, MODULE.lora_magnitude_vector.*
    and these with .weight; MODULE.weight, MODULE.base_layer.weight, MODULE.original_module.weight,
    MODULE.modules_to_save.*.weight and these with .bias.
    """
    words = [word for word in name.split(".") if word not in _WRAPPERS]
    if words[:1] == ["module"]:
        del words[0]
    while words[:2] == ["base_model", "model"]:
        del words[:2]
    at = next((index for index, word in enumerate(words) if word.startswith("lora_")), None)
    if at is None:
        return _whole(words)
    module, kind, rest = ".".join(words[:at]), words[at], words[at + 1 :]
    parameter = rest.pop() if rest and rest[-1] in ("weight", "bias") else ""
    if not module.strip(".") or len(rest) > 1:
        return None
    if (kind, parameter) == ("lora_B", "bias"):
        return AdapterTensorName(module, Part.B_BIAS, "bias")
    if kind in ("lora_A", "lora_B") and parameter == "weight":
        return AdapterTensorName(module, Part(kind), "weight")
    if kind in ("lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector") and parameter in ("", "weight"):
        return AdapterTensorName(module, Part(kind), "weight")
    return None


def _whole(words: list[str]) -> AdapterTensorName | None:
    if words[-1:] not in (["weight"], ["bias"]):
        return None
    *module, parameter = words
    part = Part.SAVED
    if module[-1:] == ["base_layer"]:
        part = Part.BASE
        del module[-1:]
    elif module[-1:] == ["original_module"]:
        part = Part.ORIGINAL
        del module[-1:]
    elif "modules_to_save" in module[-2:]:
        part = Part.MODULES_TO_SAVE
        del module[module.index("modules_to_save") :]
    return AdapterTensorName(".".join(module), part, parameter) if any(module) else None
