"""Models, as lists of tensors, whose types llama-quantize was asked for (tests/golden/recipes/make.py)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastconv.checkpoint.imatrix import ImportanceMatrix
from fastconv.plan.mixtures import ModelFacts
from fastconv.plan.recipe import Recipe, UnquantizedTensor

Shape = tuple[int, ...]
MATRIX_ROWS = 2  # the recipes look at columns only


@dataclass(frozen=True)
class RecipeCase:
    """layers: name within a layer -> shape. others: name -> shape. keys: metadata beside what all models have.

    layers_of: name within a layer -> the layers that have it, where not all do.
    """

    name: str
    facts: ModelFacts
    layers: dict[str, Shape]
    others: dict[str, Shape]
    keys: dict[str, Any] = field(default_factory=dict)
    layers_of: dict[str, Sequence[int]] = field(default_factory=dict)

    def tensors(self) -> list[UnquantizedTensor]:
        """Matrices are bf16, vectors f32, as llama.cpp's converter would leave them; in no special order."""
        shapes = dict(self.others)
        for layer in range(self.facts.n_layer):
            for name, shape in self.layers.items():
                if layer in self.layers_of.get(name, range(self.facts.n_layer)):
                    shapes[f"blk.{layer}.{name}"] = shape
        return [UnquantizedTensor(name, shape, "bf16" if len(shape) > 1 else "f32") for name, shape in shapes.items()]


@dataclass(frozen=True)
class Options:
    """What stands before the model on llama-quantize's command line, and the same for us."""

    name: str
    arguments: tuple[str, ...]
    recipe: dict[str, Any]

    def patterns(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        return tuple((re.compile(text), name) for text, name in self.recipe.get("patterns", ()))

    def as_recipe(self, *, with_importance: bool) -> Recipe:
        imatrix = ImportanceMatrix("some.imatrix", {}, (), 0) if with_importance else None
        return Recipe(**{**self.recipe, "patterns": self.patterns()}, imatrix=imatrix)


PLAIN = Options("plain", (), {})
OPTIONS = (
    PLAIN,
    Options("pure", ("--pure",), {"pure": True}),
    Options("leave_output", ("--leave-output-tensor",), {"leave_output": True}),
    Options("output_q8_0", ("--output-tensor-type", "q8_0"), {"output_type": "q8_0"}),
    Options("embedding_q3_k", ("--token-embedding-type", "Q3_K"), {"embedding_type": "q3_k"}),
    Options(
        "pure_with_both",
        ("--pure", "--token-embedding-type", "f16", "--output-tensor-type", "q4_0"),
        {"pure": True, "embedding_type": "f16", "output_type": "q4_0"},
    ),
    # Tensors that a pattern names are not counted by the mixtures, so those after them move up.
    Options(
        "patterns",
        (
            *("--tensor-type", r"blk\.[0-2]\.ffn_down=q8_0", "--tensor-type", "attn_v=iq4_nl"),
            *("--tensor-type", "^(token_embd|output).*=q5_1"),
        ),
        {"patterns": ((r"blk\.[0-2]\.ffn_down", "q8_0"), ("attn_v", "iq4_nl"), ("^(token_embd|output).*", "q5_1"))},
    ),
    Options(
        "patterns_in_turn",
        ("--tensor-type", r"\.(1|3)\.attn_v=q8_0", "--tensor-type", r"\.3\.=q6_k", "--tensor-type", "down=bf16"),
        {"patterns": ((r"\.(1|3)\.attn_v", "q8_0"), (r"\.3\.", "q6_k"), ("down", "bf16"))},
    ),
)


def matrix(n_cols: int, *leading: int) -> Shape:
    return (*leading, MATRIX_ROWS, n_cols)


def dense(n_embd: int = 512, n_ff: int = 1024, *, bias: bool = False) -> dict[str, Shape]:
    names = {
        "attn_norm.weight": (n_embd,),
        "ffn_norm.weight": (n_embd,),
        "attn_q.weight": matrix(n_embd),
        "attn_k.weight": matrix(n_embd),
        "attn_v.weight": matrix(n_embd),
        "attn_output.weight": matrix(n_embd),
        "ffn_gate.weight": matrix(n_embd),
        "ffn_up.weight": matrix(n_embd),
        "ffn_down.weight": matrix(n_ff),
    }
    return names | ({f"attn_{part}.bias": (MATRIX_ROWS,) for part in "qkv"} if bias else {})


def experts(n_expert: int, n_embd: int = 512, n_ff: int = 1024, *, shared: bool = False) -> dict[str, Shape]:
    names = {name: shape for name, shape in dense(n_embd, n_ff).items() if "ffn_" not in name or "norm" in name}
    names |= {
        "ffn_gate_inp.weight": (n_expert, n_embd),
        "ffn_gate_exps.weight": matrix(n_embd, n_expert),
        "ffn_up_exps.weight": matrix(n_embd, n_expert),
        "ffn_down_exps.weight": matrix(n_ff, n_expert),
    }
    if shared:
        names |= {
            "ffn_gate_inp_shexp.weight": (n_embd,),
            "ffn_gate_shexp.weight": matrix(n_embd),
            "ffn_up_shexp.weight": matrix(n_embd),
            "ffn_down_shexp.weight": matrix(n_ff),
        }
    return names


def whole(n_embd: int = 512, *, tied: bool = False, **more: Shape) -> dict[str, Shape]:
    names: dict[str, Shape] = {"token_embd.weight": matrix(n_embd), "output_norm.weight": (n_embd,)}
    return names | ({} if tied else {"output.weight": matrix(n_embd)}) | more


def _llama(name: str, n_layer: int, n_head: int, n_head_kv: int, n_expert: int = 0, **options: Any) -> RecipeCase:
    layers = options.pop("layers", experts(n_expert) if n_expert else dense())
    others = options.pop("others", whole())
    keys = {"expert_used_count": 2} if n_expert else {}
    return RecipeCase(name, ModelFacts("llama", n_layer, n_head, n_head_kv, n_expert), layers, others, keys, **options)


def _split_experts(n_expert: int, layers: Iterable[str]) -> dict[str, Shape]:
    shapes = {name: shape for name, shape in dense().items() if "ffn_" not in name}
    for name in layers:
        n_cols = 1024 if "down" in name else 512
        shapes |= {f"{name}.{expert}.weight": matrix(n_cols) for expert in range(n_expert)}
    return shapes | {"ffn_gate_inp.weight": (n_expert, 512)}


CASES = (
    _llama("mha", 32, 32, 32),
    _llama("groups_of_4", 32, 32, 8),
    _llama("groups_of_3_tied", 30, 9, 3, layers=dense(576, 1536), others=whole(576, tied=True)),
    _llama("groups_of_8_tied", 22, 32, 4, others=whole(tied=True)),
    _llama("rope_factors", 16, 32, 8, others=whole(tied=True) | {"rope_freqs.weight": (32,)}),
    _llama("mha_80_layers", 80, 64, 64),
    _llama("groups_80_layers", 80, 64, 8),
    *(_llama(f"mha_{n}_layers", n, 4, 4) for n in (1, 2, 5, 9, 17)),
    _llama("rows_of_32", 9, 4, 2, layers=dense(96, 320), others=whole(96)),
    _llama("rows_of_32_tied", 9, 4, 2, layers=dense(96, 320), others=whole(96, tied=True)),
    _llama("rows_of_16", 9, 4, 1, layers=dense(48, 304), others=whole(48)),
    _llama("rows_of_16_in_ffn", 9, 4, 1, layers=dense(512, 304)),
    _llama("biases", 9, 8, 8, layers=dense(bias=True)),
    _llama("8_experts", 32, 32, 8, 8),
    _llama("8_experts_80_layers", 80, 64, 8, 8),
    _llama("8_experts_split", 9, 8, 8, 8, layers=_split_experts(8, ("ffn_gate", "ffn_up", "ffn_down"))),
    _llama("4_experts", 24, 16, 16, 4),
    _llama("2_experts", 24, 16, 16, 2),
    _llama(
        "dense_and_experts",
        16,
        16,
        4,
        16,
        layers=dense() | experts(16, shared=True),
        layers_of={
            **{f"ffn_{part}.weight": range(3) for part in ("gate", "up", "down")},
            **{f"ffn_{part}_exps.weight": range(3, 16) for part in ("gate", "up", "down")},
            **{f"ffn_{part}_shexp.weight": range(3, 16) for part in ("gate", "up", "down")},
        },
    ),
    RecipeCase(
        "qwen2_80_layers",
        ModelFacts("qwen2", 80, 64, 64),
        dense(bias=True),
        whole(),
    ),
    RecipeCase("qwen2_tied", ModelFacts("qwen2", 24, 14, 2), dense(896, 4864, bias=True), whole(896, tied=True)),
    RecipeCase("deci_80_layers", ModelFacts("deci", 80, 64, 8), dense(), whole()),
    RecipeCase("olmo_80_layers", ModelFacts("olmo", 80, 64, 64), dense(), whole(), {"attention.clamp_kqv": 1.0}),
    RecipeCase("jais2_68_layers", ModelFacts("jais2", 68, 64, 64), dense(), whole()),
    *(
        RecipeCase(
            f"falcon_{n_layer}_layers",
            ModelFacts("falcon", n_layer, n_head, n_head_kv),
            {
                "attn_norm.weight": (512,),
                "attn_norm.bias": (512,),
                "attn_qkv.weight": matrix(512),
                "attn_output.weight": matrix(512),
                "ffn_up.weight": matrix(512),
                "ffn_down.weight": matrix(2048),
            },
            others,
        )
        for n_layer, n_head, n_head_kv, others in ((32, 71, 1, whole()), (60, 128, 128, whole(tied=True)))
    ),
    RecipeCase(
        "phi3_joint_projections",
        ModelFacts("phi3", 32, 32, 32),
        {
            "attn_norm.weight": (512,),
            "attn_qkv.weight": matrix(512),
            "attn_output.weight": matrix(512),
            "ffn_up.weight": matrix(512),
            "ffn_down.weight": matrix(2048),
        },
        whole(),
        {"rope.dimension_count": 96, "rope.scaling.original_context_length": 4096},
    ),
    RecipeCase(
        "gpt2_positions",
        ModelFacts("gpt2", 12, 12, 12),
        {
            "attn_norm.weight": (512,),
            "attn_qkv.weight": matrix(512),
            "attn_qkv.bias": (512,),
            "attn_output.weight": matrix(512),
            "ffn_up.weight": matrix(512),
            "ffn_down.weight": matrix(2048),
        },
        whole(tied=True) | {"position_embd.weight": matrix(512)},
    ),
    RecipeCase(
        "qwen2moe_shared_experts",
        ModelFacts("qwen2moe", 24, 16, 16, 60),
        experts(60, shared=True),
        whole(),
        {"expert_used_count": 4, "expert_feed_forward_length": 1024, "expert_shared_feed_forward_length": 1024},
    ),
    RecipeCase(
        "deepseek2_latent_attention",
        ModelFacts("deepseek2", 27, 16, 1, 64),
        {
            "attn_norm.weight": (512,),
            "attn_q.weight": matrix(512),
            "attn_kv_a_mqa.weight": matrix(512),
            "attn_kv_a_norm.weight": (512,),
            "attn_kv_b.weight": matrix(512),
            "attn_k_b.weight": matrix(128, 16),
            "attn_v_b.weight": matrix(512, 16),
            "attn_output.weight": matrix(512),
            **{name: shape for name, shape in (dense() | experts(64, shared=True)).items() if name.startswith("ffn_")},
        },
        whole(),
        {
            "expert_used_count": 6,
            "expert_feed_forward_length": 1408,
            "expert_shared_count": 2,
            "leading_dense_block_count": 1,
            "attention.kv_lora_rank": 512,
            "attention.key_length": 576,
            "attention.value_length": 512,
            "attention.key_length_mla": 192,
            "attention.value_length_mla": 128,
            "rope.dimension_count": 64,
        },
        {
            **{f"ffn_{part}.weight": range(1) for part in ("gate", "up", "down")},
            **{f"ffn_{part}_exps.weight": range(1, 27) for part in ("gate", "up", "down")},
            "ffn_gate_inp.weight": range(1, 27),
        },
    ),
    RecipeCase(
        "mamba",
        ModelFacts("mamba", 24, 0, 0),
        {
            "attn_norm.weight": (512,),
            "ssm_in.weight": matrix(512),
            "ssm_conv1d.weight": matrix(512),
            "ssm_x.weight": matrix(512),
            "ssm_dt.weight": matrix(48),
            "ssm_dt.bias": (512,),
            "ssm_a": matrix(512),
            "ssm_d": (512,),
            "ssm_out.weight": matrix(512),
        },
        whole(tied=True),
        {"ssm.conv_kernel": 4, "ssm.inner_size": 1024, "ssm.state_size": 16, "ssm.time_step_rank": 48},
    ),
    RecipeCase(
        "rwkv6_mixes",
        ModelFacts("rwkv6", 24, 0, 0),
        {
            "attn_norm.weight": (512,),
            **{f"time_mix_{part}.weight": matrix(512) for part in ("w1", "w2", "decay_w1", "decay_w2", "first")},
            **{f"time_mix_{part}.weight": matrix(512) for part in ("key", "value", "receptance", "gate", "output")},
            "channel_mix_key.weight": matrix(512),
            "channel_mix_value.weight": matrix(1792),
        },
        whole() | {"token_embd_norm.weight": (512,)},
        {
            "wkv.head_size": 64,
            "time_mix_extra_dim": 32,
            "time_decay_extra_dim": 64,
            "attention.layer_norm_epsilon": 1e-5,
        },
    ),
    RecipeCase(
        "gemma3n_two_embeddings",
        ModelFacts("gemma3n", 30, 8, 2),
        dense()
        | {
            "altup_router.weight": matrix(512),
            "laurel_l.weight": matrix(512),
            "inp_gate.weight": matrix(512),
            "proj.weight": matrix(256),
        },
        whole(tied=True)
        | {
            "per_layer_token_embd.weight": matrix(256),
            "per_layer_model_proj.weight": matrix(512),
            "altup_proj.weight": matrix(512, 3),
        },
        {"embedding_length_per_layer_input": 256, "attention.sliding_window": 512},
    ),
    RecipeCase(
        "bert_token_types",
        ModelFacts("bert", 12, 12, 12),
        {
            **{name: shape for name, shape in dense().items() if "gate" not in name and "norm" not in name},
            "attn_output_norm.weight": (512,),
            "layer_output_norm.weight": (512,),
        },
        {
            "token_embd.weight": matrix(512),
            "token_types.weight": matrix(512),
            "position_embd.weight": matrix(512),
            "token_embd_norm.weight": (512,),
        },
        {"attention.causal": False, "pooling_type": 1},
    ),
)
