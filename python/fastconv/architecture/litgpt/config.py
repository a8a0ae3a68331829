"""Lit-GPT's own settings: model_config.yaml, lit_config.json, and the models that it knows by name.

Knows keys and their defaults, no tensors. models.json holds what LitGPT's config.py says of every model it ever named.
"""

from __future__ import annotations

import functools
import json
import os
from importlib import resources
from typing import Any

from fastconv.checkpoint.json_file import read_json_object
from fastconv.checkpoint.yaml_file import read_yaml_object
from fastconv.errors import ArchitectureError, UsageError
from fastconv.paths import exists
from fastconv.record import record

MAX_LAYERS = 1 << 16  # lists with an entry per layer are made before the tensors are counted
CONFIG_NAMES = ("model_config.yaml", "lit_config.json", "lit_lora_config.json")

# Source of the defaults: LitGPT 0.5.13, config.py (Config).
DEFAULTS: dict[str, Any] = {
    "block_size": 4096,
    "n_layer": 16,
    "n_embd": 4096,
    "vocab_size": 50254,
    "padding_multiple": 512,
    "norm_class_name": "LayerNorm",
    "norm_eps": 1e-5,
    "norm_qk": False,
    "norm_qk_type": "default",
    "post_attention_norm": False,
    "post_mlp_norm": False,
    "parallel_residual": True,
    "shared_attention_norm": False,
    "n_head": 32,
    "attn_bias": False,
    "rope_base": 10000,
    "rotary_percentage": 0.25,
    "rope_condense_ratio": 1,
    "bias": True,
    "mlp_class_name": "GptNeoxMLP",
    "gelu_approximate": "none",
    "n_expert": 0,
    "n_expert_per_token": 0,
    "norm_topk_prob": False,
    "scale_embeddings": False,
    "lm_head_bias": False,
    "norm_1": True,
    "norm_2": True,
}
# What the keys were called before 15 March 2024 and 6 September 2023.
_RENAMED = {
    "_mlp_class": "mlp_class_name",
    "_norm_class": "norm_class_name",
    "condense_ratio": "rope_condense_ratio",
}
# All settings that its loaders knew at the end of that time; the first did not know the last five.
_OF_2023 = {
    "org",
    "name",
    "block_size",
    "vocab_size",
    "padding_multiple",
    "padded_vocab_size",
    "n_layer",
    "n_head",
    "n_embd",
    "rotary_percentage",
    "parallel_residual",
    "bias",
    "n_query_groups",
    "shared_attention_norm",
    "_norm_class",
    "norm_eps",
    "_mlp_class",
    "intermediate_size",
    "condense_ratio",
    "rope_base",
    "lm_head_bias",
    "gelu_approximate",
    "head_size",
    "n_expert",
    "n_expert_per_token",
    "scale_embeddings",
}


@record(eq=True)
class LitConfig:
    """A model's settings by Lit-GPT's keys of today. file: where they are from. hub_name: on the Hugging Face hub."""

    name: str
    fields: dict[str, Any]
    file: str
    hub_name: str = ""

    def get(self, key: str) -> Any:
        """The setting, its default where it is not stated."""
        value = self.fields.get(key)
        return DEFAULTS.get(key) if value is None else value

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer. Raises ArchitectureError for anything else."""
        value = self.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 1 << 31:
            raise ArchitectureError(
                f"{key} is not usable", file=self.file, found=repr(value), expected="an integer > 0"
            )
        return value

    @property
    def n_head(self) -> int:
        return self.size("n_head")

    @property
    def n_query_groups(self) -> int:
        return self.size("n_query_groups", self.n_head)

    @property
    def head_size(self) -> int:
        return self.size("head_size", self.size("n_embd") // self.n_head)

    @property
    def n_ff(self) -> int:
        return self.size("intermediate_size", 4 * self.size("n_embd"))


def read_lit_config(directory: str) -> LitConfig | None:
    """The settings beside a checkpoint, None if there are none. Raises CheckpointError or ArchitectureError if they
    cannot be understood."""
    for name in CONFIG_NAMES:
        path = os.path.join(directory, name)
        if not exists(path):
            continue
        fields = read_yaml_object(path) if name.endswith(".yaml") else read_json_object(path)
        if name == "lit_lora_config.json":
            fields = fields.get("config", fields)
            if not isinstance(fields, dict):
                raise ArchitectureError("config is not an object", file=path, found=type(fields).__name__)
        return _from_fields(fields, path)
    return None


def config_of_name(name: str) -> LitConfig:
    """The settings of a model that LitGPT knows, by its name or the hub's. Raises UsageError for an unknown name."""
    known = _by_name()
    found = known.get(name) or known.get(name.rpartition("/")[2])
    if found is None:
        import difflib

        close = ", ".join(difflib.get_close_matches(name, known, 3, 0.5))
        raise UsageError(
            "Lit-GPT has no model of this name", found=name, expected=f"a name like {close}" if close else None
        )
    return found


def known_configs() -> tuple[LitConfig, ...]:
    """The settings of all models that LitGPT has had a name for."""
    return tuple({id(config): config for config in _by_name().values()}.values())


@functools.cache
def _by_name() -> dict[str, LitConfig]:
    file = resources.files("fastconv.architecture.litgpt") / "models.json"
    configs: dict[str, LitConfig] = {}
    for group in json.loads(file.read_text(encoding="utf-8")):
        names = group.pop("names")
        for key in ("sliding_window_indices", "rope_indices"):
            if key in group:  # stored once around
                n_layer = group["n_layer"]
                group[key] = (group[key] * n_layer)[:n_layer]
        for name, hub_name in names.items():
            configs[name] = LitConfig(name, group, f"LitGPT's settings of {name}", hub_name)
    for config in list(configs.values()):
        configs.setdefault(config.hub_name.rpartition("/")[2], config)
    return configs


def settings_of_2023(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Settings as lit_config.json has them; None for a model with some that Lit-GPT got only later.

    settings: of model_config.yaml. Those at their defaults are left out: the older a loader, the fewer it takes.
    """
    hub = settings.get("hf_config") or {}
    kept = {key: value for key, value in settings.items() if value is not None and value != DEFAULTS.get(key)}
    kept.pop("hf_config", None)
    if kept.get("head_size") == kept.get("n_embd", DEFAULTS["n_embd"]) // kept.get("n_head", DEFAULTS["n_head"]):
        del kept["head_size"]
    if kept.get("sliding_window_size", -1) >= kept.get("block_size", DEFAULTS["block_size"]):
        for key in ("sliding_window_size", "sliding_window_indices"):  # no token is outside of the window
            kept.pop(key, None)
    former = {after: before for before, after in _RENAMED.items()}
    found = {"org": hub.get("org", "")} | {former.get(key, key): value for key, value in kept.items()}
    return found if found.keys() <= _OF_2023 else None


def _from_fields(fields: dict[str, Any], file: str) -> LitConfig:
    renamed = {_RENAMED.get(key, key): value for key, value in fields.items()}
    for key in ("mlp_class_name", "norm_class_name"):
        value = renamed.get(key)
        if isinstance(value, str) and value.startswith("Fused"):
            renamed[key] = value.removeprefix("Fused")
    if renamed.get("sliding_window_indices") is None and renamed.get("sliding_window_size") is not None:
        # Until April 2025: every layer, or every second one, in words or as a number.
        placing = renamed.get("sliding_window_layer_placing") or renamed.get("sliding_window_layer_stride")
        n_layer = renamed.get("n_layer")
        if placing in ("interleaved", 2) and type(n_layer) is int and 0 < n_layer <= MAX_LAYERS:
            renamed["sliding_window_indices"] = [1 - layer % 2 for layer in range(n_layer)]
    hub = renamed.get("hf_config")
    hub = hub if isinstance(hub, dict) else {}
    name = renamed.get("name") or hub.get("name") or ""
    hub_name = "/".join(str(hub[key]) for key in ("org", "name") if hub.get(key))
    if not isinstance(name, str):
        raise ArchitectureError("name is not a string", file=file, found=repr(name)[:80])
    return LitConfig(name, renamed, file, hub_name)
