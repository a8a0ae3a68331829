"""The model classes that Lit-GPT and transformers both know: how their settings correspond, key by key. Tables.

Source: LitGPT 0.5.13, config.py; transformers 5.23, the configuration_*.py of each class.
"""

from __future__ import annotations

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
        n_layer = positive(config, "num_hidden_layers")
        if n_layer > MAX_LAYERS:
            raise unusable("num_hidden_layers", n_layer)
        kinds = config.get("layer_types")
        period_here = config.get("sliding_window_pattern") or period
        if isinstance(kinds, list) and len(kinds) >= n_layer:
            windows = [int(kind == "sliding_attention") for kind in kinds[:n_layer]]
        elif type(period_here) is int and period_here > 0:
            windows = [int((layer + 1) % period_here != 0) for layer in range(n_layer)]
        else:
            raise unusable("sliding_window_pattern", period_here)
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


def positive(config: Config, key: str, default: object = None) -> int:
    """A size from config.json. Raises ArchitectureError for anything but a positive integer."""
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 1 << 31:
        raise unusable(key, value)
    return value


def unusable(key: str, found: object) -> ArchitectureError:
    return ArchitectureError(f"{key} is not usable", file="config.json", found=repr(found)[:80])
