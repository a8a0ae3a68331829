"""Tiny models for tests: LLaMA checkpoints of any shape, written by hand so that no reader under test is involved."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LlamaShape:
    """Sizes of a model; the defaults give grouped heads and rows that no block type of 256 divides."""

    n_vocab: int = 320
    n_embd: int = 64
    n_ff: int = 160
    n_layer: int = 2
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int | None = None
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_size(self) -> int:
        return self.head_dim or self.n_embd // self.n_head

    def config(self) -> dict[str, Any]:
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.n_vocab,
            "hidden_size": self.n_embd,
            "intermediate_size": self.n_ff,
            "num_hidden_layers": self.n_layer,
            "num_attention_heads": self.n_head,
            "num_key_value_heads": self.n_head_kv,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": self.tied,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
        }
        if self.head_dim is not None:
            config["head_dim"] = self.head_dim
        return config | dict(self.extra)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        q, kv = self.n_head * self.head_size, self.n_head_kv * self.head_size
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.n_vocab, self.n_embd)}
        for layer in range(self.n_layer):
            prefix = f"model.layers.{layer}."
            for module, shape, bias in (
                ("self_attn.q_proj", (q, self.n_embd), self.attention_bias),
                ("self_attn.k_proj", (kv, self.n_embd), self.attention_bias),
                ("self_attn.v_proj", (kv, self.n_embd), self.attention_bias),
                ("self_attn.o_proj", (self.n_embd, q), self.attention_bias),
                ("mlp.gate_proj", (self.n_ff, self.n_embd), self.mlp_bias),
                ("mlp.up_proj", (self.n_ff, self.n_embd), self.mlp_bias),
                ("mlp.down_proj", (self.n_embd, self.n_ff), self.mlp_bias),
            ):
                shapes[f"{prefix}{module}.weight"] = shape
                if bias:
                    shapes[f"{prefix}{module}.bias"] = shape[:1]
            shapes[prefix + "input_layernorm.weight"] = (self.n_embd,)
            shapes[prefix + "post_attention_layernorm.weight"] = (self.n_embd,)
        shapes["model.norm.weight"] = (self.n_embd,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.n_vocab, self.n_embd)
        return shapes


# Rows that every block type divides.
WIDE = LlamaShape(n_embd=256, n_ff=768)


# Hugging Face's names in Meta's checkpoints; source: transformers, convert_llama_weights_to_hf.py.
META_NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def random_tensors(shape: LlamaShape, seed: int = 0) -> dict[str, np.ndarray]:
    """Gaussian weights of 0.02 and norms near 1, float32, all exactly representable in bf16."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, dims in shape.tensor_shapes().items():
        values = rng.normal(0, 0.02, dims).astype(np.float32)
        tensors[name] = bf16_rounded(values + 1 if name.endswith("norm.weight") else values)
    return tensors


def bf16_rounded(values: np.ndarray) -> np.ndarray:
    """Finite float32 values rounded to bf16, half to even, as float32."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def encoded(values: np.ndarray, dtype: str) -> bytes:
    """float32 values as little-endian "F32", "F16", "BF16" or "F64" bytes."""
    if dtype == "BF16":
        return (bf16_rounded(values).view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype]).tobytes()


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], dtype: str = "BF16") -> None:
    header: dict[str, Any] = {}
    data = io.BytesIO()
    for name, values in tensors.items():
        start = data.tell()
        data.write(encoded(values, dtype))
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [start, data.tell()]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data.getvalue())


def write_hf(
    directory: Path,
    shape: LlamaShape | None = None,
    *,
    dtype: str = "BF16",
    seed: int = 0,
    shards: int = 1,
    tensors: Mapping[str, np.ndarray] | None = None,
    tokenizer: bool = True,
) -> dict[str, np.ndarray]:
    """A Hugging Face folder with a SentencePiece tokenizer of its size. Returns the tensors, float32."""
    shape = shape or LlamaShape()
    directory.mkdir(parents=True, exist_ok=True)
    tensors = dict(tensors or random_tensors(shape, seed))
    (directory / "config.json").write_text(json.dumps(shape.config()))
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors, dtype)
    else:
        names = list(tensors)
        weight_map = {}
        for index in range(shards):
            file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
            part = names[index::shards]
            write_safetensors(directory / file, {name: tensors[name] for name in part}, dtype)
            weight_map |= dict.fromkeys(part, file)
        index_json = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index_json))
    if tokenizer:
        (directory / "tokenizer.model").write_bytes(spm_model(shape.n_vocab))
    return tensors


@functools.cache
def spm_model(n_vocab: int) -> bytes:
    """A SentencePiece BPE model with LLaMA's special and byte pieces, trained on made-up words. n_vocab: from 300."""
    import sentencepiece

    rng = np.random.default_rng(7)
    letters = np.array(list("etaoinshrdlucm"))
    words = ["".join(rng.choice(letters, rng.integers(2, 8))) for _ in range(1500)]
    sentences = [" ".join(rng.choice(words, 12)) for _ in range(600)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=n_vocab,
        model_type="bpe",
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
