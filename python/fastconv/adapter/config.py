"""adapter_config.json: what a PEFT LoRA adapter says about itself. Knows no tensors and no model.

Every field is either obeyed, known not to change what a trained adapter adds to the weights, or refused by name.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastconv.adapter.pattern_effort import MAX_EFFORT, MAX_NAME, matching_effort
from fastconv.checkpoint.json_file import read_json_object
from fastconv.errors import AdapterError
from fastconv.paths import exists
from fastconv.record import record

CONFIG_NAME = "adapter_config.json"

_OBEYED = frozenset(
    ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern")
)

# Where the adapter came from and how it was trained. Which modules it covers is read off its tensors. fan_in_fan_out
# concerns Conv1D layers, which no LLaMA has: PEFT clears it for nn.Linear and does not look at it for nn.Embedding.
# megatron_core, qalora_group_size and the *_config of an initialisation mean nothing without the field that turns them
# on. merge_weights is PEFT 0.2's word for merging in eval().
_NEUTRAL = frozenset(
    (
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "merge_weights",
        "modules_to_save",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    )
)

_REFUSED = {
    "alora_invocation_tokens": "acts only after certain tokens, which no merged weight can",
    "arrow_config": "chooses between adapters for every token",
    "enable_lora": "splits a fused projection",
    "kasa_config": "truncates the weights of the model and scales the ranks",
    "layer_replication": "repeats layers of the model",
    "megatron_config": "is for layers of Megatron",
    "monteclora_config": "samples its update",
    "target_parameters": "targets parameters rather than modules",
    "trainable_token_indices": "replaces single rows of the embedding",
    "use_bdlora": "stores block-diagonal matrices",
    "use_qalora": "pools the inputs",
    "velora_config": "stores statistics of its training among the tensors",
}

_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")
# These subtract the initial B A from the model's weights, and PEFT does so again whenever it loads such an adapter.
_MUTATING_INITS = ("pissa", "olora", "corda", "lora_ga")


@record(eq=True)
class LoraConfig:
    """The fields that decide what is added. Modules are named as in the adapter, without "base_model.model."."""

    path: str
    rank: int
    alpha: float
    use_rslora: bool
    use_dora: bool
    lora_bias: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    fan_in_fan_out: bool = False

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.get(pattern_key(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """alpha / rank, for rsLoRA alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732)."""
        rank = self.rank_of(module)
        alpha = self.alpha_pattern.get(pattern_key(self.alpha_pattern, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def pattern_key(patterns: Iterable[str], module: str) -> str:
    """The first pattern that matches the whole module name or a suffix of it that begins after a dot, else the name.

    Source: PEFT 0.21, peft.utils.other.get_pattern_key.
    """
    if len(module) > MAX_NAME:
        return module
    for pattern in patterns:
        if re.match(rf"(.*\.)?({pattern})$", module):
            return pattern
    return module


def read_lora_config(directory: str) -> LoraConfig:
    """Raises AdapterError if it is missing or asks for more than is supported, CheckpointError if it is no JSON."""
    path = os.path.join(directory, CONFIG_NAME)
    if not exists(path):
        raise AdapterError("is missing: it holds the scale of the update", file=path, fix="put it beside the weights")
    config = read_json_object(path)
    _check_kind(path, config)
    return LoraConfig(
        path=path,
        rank=_rank(path, "r", config.get("r", 8)),
        alpha=_alpha(path, "lora_alpha", config.get("lora_alpha", 8)),
        use_rslora=_flag(path, config, "use_rslora"),
        use_dora=_flag(path, config, "use_dora"),
        lora_bias=_flag(path, config, "lora_bias"),
        rank_pattern={key: _rank(path, "rank_pattern", value) for key, value in _pattern(path, config, "rank_pattern")},
        alpha_pattern={
            key: _alpha(path, "alpha_pattern", value) for key, value in _pattern(path, config, "alpha_pattern")
        },
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
    )


def _check_kind(path: str, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise AdapterError("is not a LoRA adapter", file=path, found=config.get("peft_type"), expected="peft_type LORA")
    for name, value in config.items():
        if name in _OBEYED or name in _NEUTRAL or name == "init_lora_weights" or not value:
            continue
        reason = _REFUSED.get(name, "is an unknown field that may change the result")
        raise AdapterError(f"{name} {reason}: not supported", file=path, found=f"{name} = {str(value)[:60]}")
    init = config.get("init_lora_weights")
    kind = init.lower() if isinstance(init, str) else init
    if kind in (None, True, False) or kind in _PLAIN_INITS:
        return
    if isinstance(kind, str) and kind.startswith(_MUTATING_INITS):
        raise AdapterError(
            "the adapter belongs to a model whose weights its initialisation changed",
            file=path,
            found=f"init_lora_weights = {init}",
            fix="save it as a plain LoRA: PEFT's save_pretrained with path_initial_model_for_weight_conversion",
        )
    if kind == "loftq":
        raise AdapterError(
            "the adapter belongs to a model that LoftQ quantized",
            file=path,
            found=f"init_lora_weights = {init}",
            fix="convert that model and set init_lora_weights to true",
        )
    raise AdapterError(
        "unknown initialisation: it may change the model's weights", file=path, found=f"init_lora_weights = {init}"
    )


def _flag(path: str, config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name)
    if value is not None and type(value) is not bool:
        raise _bad(path, name, value, "true or false")
    return bool(value)


def _rank(path: str, name: str, value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise _bad(path, name, value, "a positive integer")
    return value


def _alpha(path: str, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise _bad(path, name, value, "a number")
    return float(value)


def _pattern(path: str, config: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict):
        raise _bad(path, name, patterns, "an object")
    for pattern in patterns:
        try:
            effort = matching_effort(pattern)
            re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, OverflowError, RecursionError) as error:
            raise AdapterError(
                f"{name} holds a pattern that is no regular expression ({error})", file=path, found=repr(pattern)[:80]
            ) from None
        if effort > MAX_EFFORT:
            raise AdapterError(f"{name} holds a pattern that would take too long", file=path, found=repr(pattern)[:80])
    return patterns.items()


def _bad(path: str, name: str, found: Any, expected: str) -> AdapterError:
    return AdapterError(f"{name} is malformed", file=path, found=repr(found)[:80], expected=expected)
