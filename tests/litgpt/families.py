"""One tiny model per family and shape of QKV, told twice: as transformers configures it, and as LitGPT does.

Both sides are written by hand from each program's own settings of a real model of that family.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_GATED: dict[str, Any] = {
    "bias": False,
    "mlp_class_name": "LLaMAMLP",
    "norm_class_name": "RMSNorm",
    "parallel_residual": False,
    "rotary_percentage": 1.0,
    "norm_eps": 1e-6,
}
_GEMMA = _GATED | {"mlp_class_name": "GemmaMLP", "gelu_approximate": "tanh", "scale_embeddings": True}
_WINDOWS = [1, 0, 1, 0]


@dataclass(frozen=True)
class Family:
    """hf_class: of transformers' config. hf, lit: settings beyond the sizes. heads: queries, groups, size of one."""

    hf_class: str
    lit_name: str
    hf: dict[str, Any]
    lit: dict[str, Any]
    heads: tuple[int, int, int] = (4, 2, 16)
    n_layer: int = 2
    n_embd: int = 64
    n_ff: int = 96
    n_vocab: int = 128
    in_0_5_3: bool = True  # LitGPT 0.5.3 knows it
    tied: bool = False
    group_key: str | None = "num_key_value_heads"
    needs_head_dim: bool = False
    own: dict[str, Any] = field(default_factory=dict)

    def hf_config(self) -> dict[str, Any]:
        n_head, n_groups, head_size = self.heads
        config: dict[str, Any] = {
            "hidden_size": self.n_embd,
            "intermediate_size": self.n_ff,
            "num_hidden_layers": self.n_layer,
            "num_attention_heads": n_head,
            "vocab_size": self.n_vocab,
            "max_position_embeddings": 64,
            "tie_word_embeddings": self.tied,
            "pad_token_id": None,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        if self.group_key is not None:
            config[self.group_key] = n_groups
        if self.needs_head_dim:
            config["head_dim"] = head_size
        return config | self.hf

    def lit_config(self) -> dict[str, Any]:
        n_head, n_groups, head_size = self.heads
        return {
            "name": self.lit_name,
            "hf_config": {"org": "tests", "name": self.lit_name},
            "block_size": 64,
            "n_layer": self.n_layer,
            "n_embd": self.n_embd,
            "vocab_size": self.n_vocab,
            "padded_vocab_size": self.n_vocab,
            "n_head": n_head,
            "n_query_groups": n_groups,
            "head_size": head_size,
            "intermediate_size": self.n_ff,
        } | self.lit


_LLAMA_HF = {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LLAMA3_LIT = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 32}
_GEMMA2_HF = {
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 24,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window": 8,
    "attn_implementation": "eager",
}
_GEMMA2_LIT = _GEMMA | {
    "attention_scores_scalar": 24,
    "attention_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window_size": 8,
    "post_attention_norm": True,
    "post_mlp_norm": True,
}
_NEOX_HF = {"hidden_act": "gelu", "use_parallel_residual": True}
_FALCON_LIT = {"bias": False, "rotary_percentage": 1.0}
_PHI_LIT = {"rotary_percentage": 0.5, "shared_attention_norm": True, "lm_head_bias": True, "gelu_approximate": "tanh"}
_QWEN2 = _GATED | {"attn_bias": True}

FAMILIES: dict[str, Family] = {
    "llama_grouped": Family("LlamaConfig", "tiny-llama-g", _LLAMA_HF, _GATED),
    "llama_full": Family("LlamaConfig", "tiny-llama-f", _LLAMA_HF, _GATED, heads=(4, 4, 16)),
    "llama_single": Family("LlamaConfig", "tiny-llama-s", _LLAMA_HF, _GATED, heads=(4, 1, 16)),
    "llama3": Family(
        "LlamaConfig",
        "tiny-llama-3",
        {"rms_norm_eps": 1e-5, "rope_parameters": _LLAMA3_ROPE},
        _GATED | {"norm_eps": 1e-5, "rope_base": 500000, "rope_adjustments": _LLAMA3_LIT},
        tied=True,
    ),
    "mistral": Family(
        "MistralConfig",
        "Mistral-tiny",
        _LLAMA_HF | {"sliding_window": 8, "head_dim": 16},
        _GATED | {"sliding_window_size": 8},
    ),
    "mixtral": Family(
        "MixtralConfig",
        "Mixtral-tiny",
        {"rms_norm_eps": 1e-6, "num_local_experts": 3, "num_experts_per_tok": 2}
        | {"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}},
        _GATED | {"mlp_class_name": "LLaMAMoE", "n_expert": 3, "n_expert_per_token": 2, "rope_base": 1000000},
    ),
    "gpt_neox": Family(
        "GPTNeoXConfig",
        "pythia-tiny",
        _NEOX_HF | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.25}},
        {},
        heads=(4, 4, 16),
        group_key=None,
    ),
    "gpt_neox_serial": Family(
        "GPTNeoXConfig",
        "RedPajama-tiny",
        _NEOX_HF
        | {"use_parallel_residual": False}
        | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 1.0}},
        {"rotary_percentage": 1.0, "parallel_residual": False},
        heads=(2, 2, 32),
        group_key=None,
    ),
    "falcon_7b": Family(
        "FalconConfig",
        "falcon-7b-tiny",
        {"multi_query": True, "new_decoder_architecture": False, "bias": False, "alibi": False, "parallel_attn": True},
        _FALCON_LIT | {"shared_attention_norm": True, "intermediate_size": 256},
        heads=(4, 1, 16),
        n_ff=256,
        tied=True,
        group_key=None,
    ),
    "falcon_40b": Family(
        "FalconConfig",
        "falcon-40b-tiny",
        {"new_decoder_architecture": True, "bias": False, "alibi": False, "parallel_attn": True},
        _FALCON_LIT,
        n_ff=256,
        tied=True,
        group_key="num_kv_heads",
    ),
    "phi": Family(
        "PhiConfig",
        "phi-tiny",
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.5}},
        _PHI_LIT,
        heads=(4, 4, 16),
    ),
    "phi3": Family("Phi3Config", "Phi-3-tiny", {"rms_norm_eps": 1e-6}, _GATED, heads=(4, 4, 16)),
    "phi4": Family("Phi3Config", "phi-4-tiny", {"rms_norm_eps": 1e-6}, _GATED, in_0_5_3=False),
    "gemma": Family(
        "GemmaConfig",
        "Gemma-tiny",
        {"hidden_act": "gelu_pytorch_tanh"},
        _GEMMA,
        heads=(4, 1, 24),
        tied=True,
        needs_head_dim=True,
    ),
    "gemma2": Family(
        "Gemma2Config",
        "Gemma-2-tiny",
        _GEMMA2_HF | {"layer_types": ["sliding_attention", "full_attention"] * 2},
        _GEMMA2_LIT | {"sliding_window_indices": _WINDOWS},
        heads=(4, 2, 24),
        n_layer=4,
        tied=True,
        needs_head_dim=True,
    ),
    "gemma3": Family(
        "Gemma3TextConfig",
        "Gemma-3-tiny",
        {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 24,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_theta": 1000000.0, "rope_type": "linear", "factor": 8.0},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
        },
        _GEMMA
        | {
            "attention_scores_scalar": 24,
            "sliding_window_size": 8,
            "sliding_window_indices": [1, 0],
            "norm_qk": True,
            "post_attention_norm": True,
            "post_mlp_norm": True,
            "rope_base": 1000000,
            "rope_adjustments": {"factor": 8.0},
            "rope_local_base_freq": 10000,
            "rope_indices": [1, 0],
        },
        heads=(4, 2, 24),
        tied=True,
        needs_head_dim=True,
        in_0_5_3=False,
    ),
    "qwen2": Family("Qwen2Config", "Qwen2.5-tiny", _LLAMA_HF, _QWEN2, in_0_5_3=False),
    "qwen2_tied": Family(
        "Qwen2Config", "Qwen2.5-tiny-t", _LLAMA_HF, _GATED | {"attn_bias": True}, tied=True, in_0_5_3=False
    ),
    "qwq": Family(
        "Qwen2Config", "QwQ-tiny", _LLAMA_HF, _GATED | {"attn_bias": True}, heads=(6, 2, 16), n_embd=96, in_0_5_3=False
    ),
    "qwen3": Family(
        "Qwen3Config",
        "Qwen3-tiny",
        _LLAMA_HF,
        _GATED | {"norm_qk": True},
        heads=(4, 2, 24),
        needs_head_dim=True,
        in_0_5_3=False,
    ),
    "qwen3_moe": Family(
        "Qwen3MoeConfig",
        "Qwen3-tiny-A",
        _LLAMA_HF | {"moe_intermediate_size": 48, "num_experts": 3, "num_experts_per_tok": 2, "norm_topk_prob": True},
        _GATED
        | {"norm_qk": True, "mlp_class_name": "LLaMAMoE", "moe_intermediate_size": 48, "n_expert": 3}
        | {"n_expert_per_token": 2},
        needs_head_dim=True,
        in_0_5_3=False,
    ),
    "olmo": Family(
        "OlmoConfig", "OLMo-tiny", {}, _GATED | {"norm_class_name": "LayerNorm", "norm_eps": 1e-5}, in_0_5_3=False
    ),
    "olmo2": Family(
        "Olmo2Config",
        "OLMo-2-tiny",
        _LLAMA_HF,
        _GATED
        | {"norm_1": False, "norm_2": False, "norm_qk": True, "norm_qk_type": "olmo2"}
        | {"post_attention_norm": True, "post_mlp_norm": True},
        in_0_5_3=False,
    ),
    "stablelm": Family(
        "StableLmConfig",
        "stablelm-3b-tiny",
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.25}},
        {"bias": False, "mlp_class_name": "LLaMAMLP", "parallel_residual": False},
        heads=(4, 4, 16),
    ),
}
