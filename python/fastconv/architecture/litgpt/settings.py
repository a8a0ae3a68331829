"""config.json -> Lit-GPT's settings and back, by the tables of classes.py; the rotary positions by their own rules.

Source: LitGPT 0.5.13, config.py; transformers 5.23, the configuration_*.py of each class.
"""

from __future__ import annotations

import math

from fastconv.architecture.litgpt.classes import Config, ModelClass, positive, unusable
from fastconv.architecture.litgpt.config import LitConfig
from fastconv.errors import ArchitectureError

# transformers 5 writes another name than its classes were known by.
_ALSO_CALLED = {"num_experts": "num_local_experts"}

# Keys of config.json for the part of a head that rotates, where not all of it does, and the class's default.
_PARTIAL_ROTARY = {
    "gpt_neox": ("rotary_pct", 0.25),
    "phi": ("partial_rotary_factor", 0.5),
    "stablelm": ("partial_rotary_factor", 0.25),
    "phi3": ("partial_rotary_factor", 1.0),
}
_LLAMA3 = (
    ("low_freq_factor", "low_freq_factor"),
    ("high_freq_factor", "high_freq_factor"),
    ("original_max_position_embeddings", "original_max_seq_len"),
)
_NEOX_THETA = "rotary_emb_base"


def hf_config(entry: ModelClass, lit: LitConfig) -> Config:
    """config.json as far as Lit-GPT's settings say it."""
    sizes = {"head_size": lit.head_size, "n_query_groups": lit.n_query_groups, "intermediate_size": lit.n_ff}
    config: Config = {"architectures": [entry.hf_class], "model_type": entry.model_type}
    for hf_key, lit_key, _ in entry.keys:
        value = sizes.get(lit_key, lit.get(lit_key))
        if value is not None or lit_key.endswith("softcapping"):
            config[hf_key] = value
    return config | entry.hf | entry.more_hf(lit) | _rope_to_hf(entry, lit)


def lit_fields(entry: ModelClass, config: Config) -> Config:
    """Lit-GPT's settings from config.json. Raises ArchitectureError for a value that it cannot hold."""
    fields = dict(entry.lit)
    for hf_key, lit_key, default in entry.keys:
        value = config.get(hf_key, config.get(_ALSO_CALLED.get(hf_key, "")))
        if value is None and not (hf_key in config and lit_key.endswith("softcapping")):
            value = default
        if value is None:
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise unusable(hf_key, value)
        fields[lit_key] = value
    fields["vocab_size"] = positive(config, "vocab_size")
    if entry.model_type == "falcon":
        fields["intermediate_size"] = config.get("ffn_hidden_size") or 4 * positive(config, "hidden_size")
    return fields | entry.more_lit(config) | _rope_to_lit(entry, config)


def _rope_to_hf(entry: ModelClass, lit: LitConfig) -> Config:
    config: Config = {"rope_theta": float(lit.get("rope_base"))}
    if entry.model_type == "gpt_neox":
        config[_NEOX_THETA] = lit.get("rope_base")
    if entry.model_type in _PARTIAL_ROTARY:
        config[_PARTIAL_ROTARY[entry.model_type][0]] = lit.get("rotary_percentage")
    adjustments = lit.get("rope_adjustments")
    condense = lit.get("rope_condense_ratio")
    if condense != 1:
        config["rope_scaling"] = {"type": "linear", "rope_type": "linear", "factor": float(condense)}
    elif isinstance(adjustments, dict):
        if "low_freq_factor" in adjustments:
            config["rope_scaling"] = {"rope_type": "llama3", "factor": adjustments.get("factor")} | {
                hf_key: adjustments.get(lit_key) for hf_key, lit_key in _LLAMA3
            }
        elif adjustments.keys() == {"factor"}:
            config["rope_scaling"] = {"rope_type": "linear", "factor": adjustments["factor"]}
        else:
            raise ArchitectureError(
                "rope_adjustments are of a kind that is not known", file=lit.file, found=", ".join(adjustments)
            )
    return config


def _rope_to_lit(entry: ModelClass, config: Config) -> Config:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise unusable("rope_scaling", rope)
    if isinstance(rope.get("full_attention"), dict):
        rope = rope["full_attention"]
    default_theta = 1000000.0 if entry.model_type in ("mixtral", "gemma3_text") else 10000.0
    theta = rope.get("rope_theta") or config.get("rope_theta") or config.get(_NEOX_THETA) or default_theta
    if not isinstance(theta, int | float) or not math.isfinite(theta):
        raise unusable("rope_theta", theta)
    found: Config = {"rope_base": int(theta) if theta == int(theta) else theta}
    if entry.model_type in _PARTIAL_ROTARY:
        key, default = _PARTIAL_ROTARY[entry.model_type]
        partial = rope.get("partial_rotary_factor", config.get(key, default))
        found["rotary_percentage"] = default if partial is None else partial
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "linear":
        found["rope_adjustments"] = {"factor": rope.get("factor")}
    elif kind == "llama3":
        found["rope_adjustments"] = {"factor": rope.get("factor")} | {
            lit_key: rope.get(hf_key) for hf_key, lit_key in _LLAMA3
        }
    elif kind != "default":
        raise ArchitectureError(
            "Lit-GPT has no such rope scaling",
            found=kind,
            expected="default, linear or llama3",
            fix="if Lit-GPT knows the model by name, give --model-name",
        )
    return found
