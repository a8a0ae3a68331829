"""config.json and Lit-GPT's settings, key by key, for every model class that both know. Tables and what reads them.

Source: LitGPT 0.5.13, config.py; transformers 5.23, the configuration_*.py of each class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

from fastconv.architecture.hf_config import class_names
from fastconv.architecture.litgpt import namings
from fastconv.architecture.litgpt.config import MAX_LAYERS, LitConfig
from fastconv.architecture.litgpt.namings import Naming
from fastconv.errors import ArchitectureError
from fastconv.record import record

Config = dict[str, Any]


@record(eq=True)
class ModelClass:
    """A class of transformers.

    lit_name: what the names of its models begin with in LitGPT, whose code goes by it. keys: (config.json's key,
    Lit-GPT's key, the class's default). lit, hf: settings that all its models share. matches: whether Lit-GPT's
    settings are of this class. is_tied: the class's default of tie_word_embeddings.
    """

    model_type: str
    hf_class: str
    naming: Naming
    lit_name: str
    keys: tuple[tuple[str, str, Any], ...]
    lit: Config
    hf: Config = field(default_factory=dict)
    matches: Callable[[LitConfig], bool] = lambda config: True
    is_tied: bool = False
    more_hf: Callable[[LitConfig], Config] = lambda config: {}
    more_lit: Callable[[Config], Config] = lambda config: {}


_SIZES = (
    ("hidden_size", "n_embd", None),
    ("num_hidden_layers", "n_layer", None),
    ("num_attention_heads", "n_head", None),
    ("vocab_size", "padded_vocab_size", None),
)
_FF = ("intermediate_size", "intermediate_size", None)
_RMS = ("rms_norm_eps", "norm_eps", 1e-6)
_LAYER_NORM = ("layer_norm_eps", "norm_eps", 1e-5)
_GROUPS = ("num_key_value_heads", "n_query_groups", None)
_HEAD = ("head_dim", "head_size", None)


def _context(default: int) -> tuple[str, str, Any]:
    return ("max_position_embeddings", "block_size", default)


_GATED = {
    "bias": False,
    "mlp_class_name": "LLaMAMLP",
    "norm_class_name": "RMSNorm",
    "parallel_residual": False,
    "rotary_percentage": 1.0,
}
_GEMMA = _GATED | {"mlp_class_name": "GemmaMLP", "gelu_approximate": "tanh", "scale_embeddings": True}
_GEMMA_HF = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
_TWO_MORE_NORMS = {"post_attention_norm": True, "post_mlp_norm": True}
_SOFTCAPS = (
    ("query_pre_attn_scalar", "attention_scores_scalar", 256),
    ("attn_logit_softcapping", "attention_logit_softcapping", 50.0),
    ("final_logit_softcapping", "final_logit_softcapping", 30.0),
)
_MOE = _GATED | {"mlp_class_name": "LLaMAMoE"}


def _named(*words: str) -> Callable[[LitConfig], bool]:
    return lambda config: config.name.lower().startswith(words)


def _window_hf(config: LitConfig) -> Config:
    return {"sliding_window": config.get("sliding_window_size")}


def _window_lit(default: int | None) -> Callable[[Config], Config]:
    def read(config: Config) -> Config:
        window = config.get("sliding_window", default)
        if config.get("use_sliding_window") is False:
            window = None
        return {} if window is None else {"sliding_window_size": window}

    return read


def _alternating_hf(config: LitConfig) -> Config:
    windows = config.get("sliding_window_indices") or [1] * config.size("n_layer")
    kinds = ["sliding_attention" if window else "full_attention" for window in windows]
    return _window_hf(config) | {"layer_types": kinds[: config.size("n_layer")]}


def _alternating_lit(default_window: int, period: int) -> Callable[[Config], Config]:
    def read(config: Config) -> Config:
        n_layer = _positive(config, "num_hidden_layers")
        if n_layer > MAX_LAYERS:
            raise _unusable("num_hidden_layers", n_layer)
        kinds = config.get("layer_types")
        period_here = config.get("sliding_window_pattern") or period
        if isinstance(kinds, list) and len(kinds) >= n_layer:
            windows = [int(kind == "sliding_attention") for kind in kinds[:n_layer]]
        elif type(period_here) is int and period_here > 0:
            windows = [int((layer + 1) % period_here != 0) for layer in range(n_layer)]
        else:
            raise _unusable("sliding_window_pattern", period_here)
        return {
            "sliding_window_size": config.get("sliding_window", default_window),
            "sliding_window_indices": windows,
        }

    return read


def _gemma3_hf(config: LitConfig) -> Config:
    local = config.get("rope_local_base_freq")
    return _alternating_hf(config) | ({} if local is None else {"rope_local_base_freq": local})


def _gemma3_lit(config: Config) -> Config:
    fields = _alternating_lit(4096, 6)(config)
    rope = config.get("rope_parameters")
    local = rope.get("sliding_attention") if isinstance(rope, dict) else None
    base = local.get("rope_theta") if isinstance(local, dict) else config.get("rope_local_base_freq")
    return fields | {
        "rope_local_base_freq": 10000 if base is None else base,
        "rope_indices": list(fields["sliding_window_indices"]),
    }


def _falcon_lit(config: Config) -> Config:
    if config.get("alibi"):
        raise ArchitectureError("Lit-GPT knows no ALiBi positions", found="alibi", expected="false")
    return {}


_FALCON = {"rotary_percentage": 1.0, "bias": False, "parallel_residual": True}
_FALCON_HF: Config = {"bias": False, "alibi": False, "parallel_attn": True}
_FALCON_KEYS = (*_SIZES, _context(2048), ("layer_norm_epsilon", "norm_eps", 1e-5))


CLASSES: tuple[ModelClass, ...] = (
    ModelClass(
        "mistral",
        "MistralForCausalLM",
        namings.LLAMA,
        "",
        (*_SIZES, _FF, _GROUPS, _HEAD, _RMS, _context(4096 * 32)),
        _GATED,
        matches=lambda config: (
            (config.get("sliding_window_size") is not None or _named("mistral", "mathstral")(config))
            and config.get("mlp_class_name") != "GemmaMLP"
        ),
        more_hf=_window_hf,
        more_lit=_window_lit(4096),
    ),
    ModelClass(
        "gemma",
        "GemmaForCausalLM",
        namings.LLAMA,
        "Gemma-",
        (*_SIZES, _FF, _GROUPS, ("head_dim", "head_size", 256), _RMS, _context(8192)),
        _GEMMA,
        _GEMMA_HF,
        matches=lambda config: config.get("mlp_class_name") == "GemmaMLP",
        is_tied=True,
    ),
    ModelClass(
        "llama",
        "LlamaForCausalLM",
        namings.LLAMA,
        "",
        (*_SIZES, _FF, _GROUPS, _HEAD, _RMS, _context(2048)),
        _GATED,
    ),
    ModelClass(
        "phi3",
        "Phi3ForCausalLM",
        namings.PHI3,
        "Phi-3-",
        (*_SIZES, _FF, _GROUPS, ("rms_norm_eps", "norm_eps", 1e-5), _context(4096)),
        _GATED,
        # Its classes' defaults are of Phi-3's own tokens.
        {"pad_token_id": None},
        more_hf=_window_hf,
        more_lit=_window_lit(None),
    ),
    ModelClass(
        "qwen2",
        "Qwen2ForCausalLM",
        namings.QWEN2,
        "Qwen2.5-",
        (*_SIZES, _FF, _GROUPS, _RMS, _context(32768)),
        _GATED | {"attn_bias": True},
    ),
    ModelClass(
        "qwen3",
        "Qwen3ForCausalLM",
        namings.QWEN3,
        "Qwen3-",
        (*_SIZES, _FF, _GROUPS, ("head_dim", "head_size", 128), _RMS, _context(32768)),
        _GATED | {"norm_qk": True},
    ),
    ModelClass(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        namings.QWEN3_MOE,
        "Qwen3-",
        (
            *_SIZES,
            _FF,
            _GROUPS,
            _HEAD,
            _RMS,
            _context(32768),
            ("moe_intermediate_size", "moe_intermediate_size", 768),
            ("num_experts", "n_expert", 128),
            ("num_experts_per_tok", "n_expert_per_token", 8),
        ),
        _MOE | {"norm_qk": True},
        {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    ModelClass(
        "mixtral",
        "MixtralForCausalLM",
        namings.MIXTRAL,
        "",
        (
            *_SIZES,
            _FF,
            _GROUPS,
            _HEAD,
            ("rms_norm_eps", "norm_eps", 1e-5),
            _context(4096 * 32),
            ("num_local_experts", "n_expert", 8),
            ("num_experts_per_tok", "n_expert_per_token", 2),
        ),
        _MOE,
    ),
    ModelClass(
        "gemma2",
        "Gemma2ForCausalLM",
        namings.GEMMA2,
        "Gemma-2-",
        (*_SIZES, _FF, _GROUPS, ("head_dim", "head_size", 256), _RMS, _context(8192), *_SOFTCAPS),
        _GEMMA | _TWO_MORE_NORMS,
        _GEMMA_HF,
        is_tied=True,
        more_hf=_alternating_hf,
        more_lit=_alternating_lit(4096, 2),
    ),
    ModelClass(
        "gemma3_text",
        "Gemma3ForCausalLM",
        namings.GEMMA3,
        "Gemma-3-",
        (*_SIZES, _FF, _GROUPS, ("head_dim", "head_size", 256), _RMS, _context(131072), _SOFTCAPS[0]),
        _GEMMA | _TWO_MORE_NORMS | {"norm_qk": True},
        _GEMMA_HF,
        is_tied=True,
        more_hf=_gemma3_hf,
        more_lit=_gemma3_lit,
    ),
    ModelClass(
        "olmo2",
        "Olmo2ForCausalLM",
        namings.OLMO2,
        "OLMo-2-",
        (*_SIZES, _FF, _GROUPS, ("rms_norm_eps", "norm_eps", 1e-5), _context(2048)),
        _GATED | _TWO_MORE_NORMS | {"norm_1": False, "norm_2": False, "norm_qk": True, "norm_qk_type": "olmo2"},
    ),
    ModelClass(
        "olmo",
        "OlmoForCausalLM",
        namings.OLMO,
        "OLMo-",
        (*_SIZES, _FF, _GROUPS, _context(2048)),
        _GATED | {"norm_class_name": "LayerNorm"},
    ),
    ModelClass(
        "stablelm",
        "StableLmForCausalLM",
        namings.STABLELM,
        "stablelm-",
        (*_SIZES, _FF, _GROUPS, _LAYER_NORM, _context(4096)),
        {"bias": False, "mlp_class_name": "LLaMAMLP", "norm_class_name": "LayerNorm", "parallel_residual": False},
    ),
    ModelClass(
        "phi",
        "PhiForCausalLM",
        namings.PHI,
        "phi-",
        (*_SIZES, _FF, _GROUPS, _LAYER_NORM, _context(2048)),
        {
            "bias": True,
            "lm_head_bias": True,
            "gelu_approximate": "tanh",
            "shared_attention_norm": True,
            "parallel_residual": True,
        },
    ),
    ModelClass(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        namings.GPT_NEOX,
        "pythia-",
        (*_SIZES, _FF, _LAYER_NORM, _context(2048), ("use_parallel_residual", "parallel_residual", True)),
        {"bias": True},
        {"hidden_act": "gelu"},
    ),
    ModelClass(
        "falcon",
        "FalconForCausalLM",
        namings.FALCON,
        "falcon-7b-",
        _FALCON_KEYS,
        _FALCON | {"shared_attention_norm": True},
        _FALCON_HF | {"new_decoder_architecture": False},
        is_tied=True,
        more_hf=lambda config: {"multi_query": config.n_query_groups == 1},
        more_lit=lambda config: (
            _falcon_lit(config) | ({"n_query_groups": 1} if config.get("multi_query", True) else {})
        ),
    ),
    ModelClass(
        "falcon",
        "FalconForCausalLM",
        namings.FALCON_GROUPED,
        "falcon-40b-",
        (*_FALCON_KEYS, ("num_kv_heads", "n_query_groups", None)),
        _FALCON,
        _FALCON_HF | {"new_decoder_architecture": True},
        is_tied=True,
        more_lit=_falcon_lit,
    ),
)


def class_of_config(config: Config, file: str) -> ModelClass | None:
    """The class that config.json names, None if Lit-GPT has none of that kind. Raises ArchitectureError."""
    classes = class_names(config, file)
    for entry in CLASSES:
        named = entry.hf_class in classes if classes else config.get("model_type") == entry.model_type
        if named and (
            entry.hf_class != "FalconForCausalLM"
            or bool(config.get("new_decoder_architecture")) is (entry.naming is namings.FALCON_GROUPED)
        ):
            return entry
    return None


def classes_of_naming(naming: Naming) -> tuple[ModelClass, ...]:
    return tuple(entry for entry in CLASSES if entry.naming is naming)


def is_tied(entry: ModelClass, config: Config) -> bool:
    """Whether the head is the embedding in models of this config."""
    stated = config.get("tie_word_embeddings")
    return entry.is_tied if stated is None else bool(stated)


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
            raise _unusable(hf_key, value)
        fields[lit_key] = value
    fields["vocab_size"] = _positive(config, "vocab_size")
    if entry.model_type == "falcon":
        fields["intermediate_size"] = config.get("ffn_hidden_size") or 4 * _positive(config, "hidden_size")
    return fields | entry.more_lit(config) | _rope_to_lit(entry, config, fields)


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


def _rope_to_lit(entry: ModelClass, config: Config, fields: Config) -> Config:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise _unusable("rope_scaling", rope)
    if isinstance(rope.get("full_attention"), dict):
        rope = rope["full_attention"]
    default_theta = 1000000.0 if entry.model_type in ("mixtral", "gemma3_text") else 10000.0
    theta = rope.get("rope_theta") or config.get("rope_theta") or config.get(_NEOX_THETA) or default_theta
    if not isinstance(theta, int | float) or not math.isfinite(theta):
        raise _unusable("rope_theta", theta)
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


def _positive(config: Config, key: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise _unusable(key, value)
    return value


def _unusable(key: str, found: object) -> ArchitectureError:
    return ArchitectureError(f"{key} is not usable", file="config.json", found=repr(found)[:80])
