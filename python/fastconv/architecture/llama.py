"""The LLaMA family: Llama 1 to 3.x, Code Llama, TinyLlama, Mistral 7B, SmolLM2. Tables only."""

from __future__ import annotations

from typing import Any

from fastconv.architecture.hf_config import hf_hyperparameters
from fastconv.architecture.hparams import Hyperparameters
from fastconv.architecture.spec import ArchitectureSpec, TensorRule

_LAYER = "model.layers.{layer}."
_META_LAYER = "layers.{layer}."


def _layer_rule(hf: str, meta: str, shape: tuple[str, ...], **options: Any) -> TensorRule:
    return TensorRule(_LAYER + hf, _META_LAYER + meta, shape, **options)


# Source of the Meta names and of the axes along which model-parallel parts join: transformers,
# convert_llama_weights_to_hf.py. The embedding's axis differs between releases; canonical.py looks at its shape.
_RULES = (
    TensorRule("model.embed_tokens.weight", "tok_embeddings.weight", ("n_vocab", "n_embd"), join=1),
    TensorRule("model.norm.weight", "norm.weight", ("n_embd",)),
    TensorRule("lm_head.weight", "output.weight", ("n_vocab", "n_embd"), join=0, tied_to="model.embed_tokens.weight"),
    _layer_rule("self_attn.q_proj.weight", "attention.wq.weight", ("n_embd_q", "n_embd"), rope_heads="n_head", join=0),
    _layer_rule(
        "self_attn.k_proj.weight", "attention.wk.weight", ("n_embd_kv", "n_embd"), rope_heads="n_head_kv", join=0
    ),
    _layer_rule("self_attn.v_proj.weight", "attention.wv.weight", ("n_embd_kv", "n_embd"), join=0),
    _layer_rule("self_attn.o_proj.weight", "attention.wo.weight", ("n_embd", "n_embd_q"), join=1),
    _layer_rule("input_layernorm.weight", "attention_norm.weight", ("n_embd",)),
    _layer_rule("mlp.gate_proj.weight", "feed_forward.w1.weight", ("n_ff", "n_embd"), join=0),
    _layer_rule("mlp.down_proj.weight", "feed_forward.w2.weight", ("n_embd", "n_ff"), join=1),
    _layer_rule("mlp.up_proj.weight", "feed_forward.w3.weight", ("n_ff", "n_embd"), join=0),
    _layer_rule("post_attention_layernorm.weight", "ffn_norm.weight", ("n_embd",)),
    _layer_rule(
        "self_attn.q_proj.bias", "attention.wq.bias", ("n_embd_q",), rope_heads="n_head", join=0, when="attention_bias"
    ),
    _layer_rule(
        "self_attn.k_proj.bias",
        "attention.wk.bias",
        ("n_embd_kv",),
        rope_heads="n_head_kv",
        join=0,
        when="attention_bias",
    ),
    _layer_rule("self_attn.v_proj.bias", "attention.wv.bias", ("n_embd_kv",), join=0, when="attention_bias"),
    _layer_rule("self_attn.o_proj.bias", "attention.wo.bias", ("n_embd",), when="attention_bias"),
    _layer_rule("mlp.gate_proj.bias", "feed_forward.w1.bias", ("n_ff",), join=0, when="mlp_bias"),
    _layer_rule("mlp.down_proj.bias", "feed_forward.w2.bias", ("n_embd",), when="mlp_bias"),
    _layer_rule("mlp.up_proj.bias", "feed_forward.w3.bias", ("n_ff",), join=0, when="mlp_bias"),
)

_IGNORED = (
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.(inv_freq|cos_cached|sin_cached)",
    r"model\.rotary_emb\.inv_freq",
    r"layers\.\d+\.attention\.inner_attention\.rope\.freqs",
    r"rope\.freqs",
)

# What LlamaConfig and MistralConfig assume where config.json is silent; source: transformers 5.23.
_LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
_MISTRAL_DEFAULTS: dict[str, Any] = _LLAMA_DEFAULTS | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096 * 32,
}


def _hyperparameters(config: dict[str, Any]) -> Hyperparameters:
    mistral = "MistralForCausalLM" in (config.get("architectures") or ()) or config.get("model_type") == "mistral"
    return hf_hyperparameters(config, _MISTRAL_DEFAULTS if mistral else _LLAMA_DEFAULTS)


LLAMA = ArchitectureSpec(
    name="llama",
    hf_classes=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"),
    rules=_RULES,
    ignored=_IGNORED,
    hyperparameters=_hyperparameters,
)
