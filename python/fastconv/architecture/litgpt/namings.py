"""Which of Hugging Face's tensors each Lit-GPT tensor is, one table per family. Tables only; a row order is in rows.py.

Source: LitGPT 0.5.13, scripts/convert_hf_checkpoint.py and convert_lit_checkpoint.py; 2023's Lit-GPT used the same
names, but attn.attn for attn.qkv.
"""

from __future__ import annotations

from fastconv.record import record

WEIGHT, BOTH = ("weight",), ("weight", "bias")

# Sizes of every Lit-GPT weight, by module: attributes of Sizes, output dimension first; a bias has the first.
SHAPES: dict[str, tuple[str, ...]] = {
    "transformer.wte": ("n_vocab", "n_embd"),
    "transformer.ln_f": ("n_embd",),
    "lm_head": ("n_vocab", "n_embd"),
    "norm_1": ("n_embd",),
    "norm_2": ("n_embd",),
    "post_attention_norm": ("n_embd",),
    "post_mlp_norm": ("n_embd",),
    "attn.qkv": ("n_qkv", "n_embd"),
    "attn.norm_q": ("n_norm_q",),
    "attn.norm_k": ("n_norm_k",),
    "attn.proj": ("n_embd", "n_q"),
    "mlp.fc": ("n_ff", "n_embd"),
    "mlp.fc_1": ("n_ff", "n_embd"),
    "mlp.fc_2": ("n_ff", "n_embd"),
    "mlp.proj": ("n_embd", "n_ff"),
    "mlp.gate": ("n_expert", "n_embd"),
    "mlp.experts.{expert}.fc_1": ("n_ff_expert", "n_embd"),
    "mlp.experts.{expert}.fc_2": ("n_ff_expert", "n_embd"),
    "mlp.experts.{expert}.proj": ("n_embd", "n_ff_expert"),
}


@record(eq=True)
class Module:
    """Modules that hold the same rows: several of one side joined, one after the other, are those of the other.

    parameters: WEIGHT or BOTH. grouped: Hugging Face keeps q, k and v of each group of heads together.
    """

    lit: tuple[str, ...]
    hf: tuple[str, ...]
    parameters: tuple[str, ...] = WEIGHT
    grouped: bool = False


@record(eq=True)
class Naming:
    """A family's names. layers: what stands before a layer's number; top: modules outside of the layers, the embedding
    first and the head last."""

    name: str
    layers: str
    top: tuple[Module, ...]
    per_layer: tuple[Module, ...]


def _one(lit: str, hf: str, parameters: tuple[str, ...] = WEIGHT) -> Module:
    return Module((lit,), (hf,), parameters)


def _llama_top(norm: tuple[str, ...] = WEIGHT, *, has_norm: bool = True) -> tuple[Module, ...]:
    norms = (_one("transformer.ln_f", "model.norm", norm),) if has_norm else ()
    return (_one("transformer.wte", "model.embed_tokens"), *norms, _one("lm_head", "lm_head"))


def _split_qkv(parameters: tuple[str, ...] = WEIGHT) -> Module:
    return Module(("attn.qkv",), ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), parameters)


_NORMS = (_one("norm_1", "input_layernorm"), _one("norm_2", "post_attention_layernorm"))
_NORMS_WITH_BIAS = (_one("norm_1", "input_layernorm", BOTH), _one("norm_2", "post_attention_layernorm", BOTH))
_HEAD_NORMS = (_one("attn.norm_q", "self_attn.q_norm"), _one("attn.norm_k", "self_attn.k_norm"))
_O_PROJ = _one("attn.proj", "self_attn.o_proj")
_GATED_MLP = (
    _one("mlp.fc_1", "mlp.gate_proj"),
    _one("mlp.fc_2", "mlp.up_proj"),
    _one("mlp.proj", "mlp.down_proj"),
)
_GEMMA_NORMS = (
    _one("norm_1", "input_layernorm"),
    _one("post_attention_norm", "post_attention_layernorm"),
    _one("norm_2", "pre_feedforward_layernorm"),
    _one("post_mlp_norm", "post_feedforward_layernorm"),
)


def _llama_like(name: str, *modules: Module, top: tuple[Module, ...] | None = None) -> Naming:
    return Naming(name, "model.layers.", top or _llama_top(), modules)


LLAMA = _llama_like("llama", *_NORMS, _split_qkv(), _O_PROJ, *_GATED_MLP)
QWEN2 = _llama_like("qwen2", *_NORMS, _split_qkv(BOTH), _O_PROJ, *_GATED_MLP)
QWEN3 = _llama_like("qwen3", *_NORMS, _split_qkv(), *_HEAD_NORMS, _O_PROJ, *_GATED_MLP)
GEMMA2 = _llama_like("gemma2", *_GEMMA_NORMS, _split_qkv(), _O_PROJ, *_GATED_MLP)
GEMMA3 = _llama_like("gemma3", *_GEMMA_NORMS, _split_qkv(), *_HEAD_NORMS, _O_PROJ, *_GATED_MLP)
OLMO = _llama_like("olmo", _split_qkv(), _O_PROJ, *_GATED_MLP, top=_llama_top(has_norm=False))
OLMO2 = _llama_like(
    "olmo2",
    _split_qkv(),
    *_HEAD_NORMS,
    _O_PROJ,
    _one("post_attention_norm", "post_attention_layernorm"),
    _one("post_mlp_norm", "post_feedforward_layernorm"),
    *_GATED_MLP,
)
STABLELM = _llama_like("stablelm", *_NORMS_WITH_BIAS, _split_qkv(), _O_PROJ, *_GATED_MLP, top=_llama_top(BOTH))
MIXTRAL = _llama_like(
    "mixtral",
    *_NORMS,
    _split_qkv(),
    _O_PROJ,
    _one("mlp.gate", "block_sparse_moe.gate"),
    _one("mlp.experts.{expert}.fc_1", "block_sparse_moe.experts.{expert}.w1"),
    _one("mlp.experts.{expert}.fc_2", "block_sparse_moe.experts.{expert}.w3"),
    _one("mlp.experts.{expert}.proj", "block_sparse_moe.experts.{expert}.w2"),
)
QWEN3_MOE = _llama_like(
    "qwen3_moe",
    *_NORMS,
    _split_qkv(),
    *_HEAD_NORMS,
    _O_PROJ,
    _one("mlp.gate", "mlp.gate"),
    _one("mlp.experts.{expert}.fc_1", "mlp.experts.{expert}.gate_proj"),
    _one("mlp.experts.{expert}.fc_2", "mlp.experts.{expert}.up_proj"),
    _one("mlp.experts.{expert}.proj", "mlp.experts.{expert}.down_proj"),
)
PHI3 = _llama_like(
    "phi3",
    *_NORMS,
    _one("attn.qkv", "self_attn.qkv_proj"),
    _O_PROJ,
    Module(("mlp.fc_1", "mlp.fc_2"), ("mlp.gate_up_proj",)),
    _one("mlp.proj", "mlp.down_proj"),
)
PHI = Naming(
    "phi",
    "model.layers.",
    (
        _one("transformer.wte", "model.embed_tokens"),
        _one("transformer.ln_f", "model.final_layernorm", BOTH),
        _one("lm_head", "lm_head", BOTH),
    ),
    (
        _one("norm_1", "input_layernorm", BOTH),
        _split_qkv(BOTH),
        _one("attn.proj", "self_attn.dense", BOTH),
        _one("mlp.fc", "mlp.fc1", BOTH),
        _one("mlp.proj", "mlp.fc2", BOTH),
    ),
)
GPT_NEOX = Naming(
    "gpt_neox",
    "gpt_neox.layers.",
    (
        _one("transformer.wte", "gpt_neox.embed_in"),
        _one("transformer.ln_f", "gpt_neox.final_layer_norm", BOTH),
        _one("lm_head", "embed_out"),
    ),
    (
        *_NORMS_WITH_BIAS,
        Module(("attn.qkv",), ("attention.query_key_value",), BOTH, grouped=True),
        _one("attn.proj", "attention.dense", BOTH),
        _one("mlp.fc", "mlp.dense_h_to_4h", BOTH),
        _one("mlp.proj", "mlp.dense_4h_to_h", BOTH),
    ),
)
_FALCON_TOP = (
    _one("transformer.wte", "transformer.word_embeddings"),
    _one("transformer.ln_f", "transformer.ln_f", BOTH),
    _one("lm_head", "lm_head"),
)
_FALCON_REST = (
    Module(("attn.qkv",), ("self_attention.query_key_value",), grouped=True),
    _one("attn.proj", "self_attention.dense"),
    _one("mlp.fc", "mlp.dense_h_to_4h"),
    _one("mlp.proj", "mlp.dense_4h_to_h"),
)
FALCON = Naming("falcon", "transformer.h.", _FALCON_TOP, (_one("norm_1", "input_layernorm", BOTH), *_FALCON_REST))
FALCON_GROUPED = Naming(
    "falcon_grouped",
    "transformer.h.",
    _FALCON_TOP,
    (_one("norm_1", "ln_attn", BOTH), _one("norm_2", "ln_mlp", BOTH), *_FALCON_REST),
)

NAMINGS: tuple[Naming, ...] = (
    LLAMA,
    PHI3,
    QWEN2,
    QWEN3,
    GEMMA2,
    GEMMA3,
    OLMO,
    OLMO2,
    STABLELM,
    MIXTRAL,
    QWEN3_MOE,
    PHI,
    GPT_NEOX,
    FALCON,
    FALCON_GROUPED,
)
