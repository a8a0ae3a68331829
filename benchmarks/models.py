"""The models that the benchmarks convert: LLaMA shapes in bfloat16 with random weights and a real vocabulary.

Knows nothing of fastconv. Files that are there already, complete, are kept.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LORA_RANK = 16
LORA_ALPHA = 32


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaMA model; the defaults are TinyLlama's, 1.1 billion parameters."""

    n_embd: int = 2048
    n_ff: int = 5632
    n_layer: int = 22
    n_head: int = 32
    n_head_kv: int = 4
    n_vocab: int = 32000

    @property
    def n_kv(self) -> int:
        """Rows of k_proj and of v_proj."""
        return self.n_embd // self.n_head * self.n_head_kv

    def layer_matrices(self) -> dict[str, tuple[int, int]]:
        """The seven matrices of a layer: (rows, columns)."""
        return {
            "self_attn.q_proj": (self.n_embd, self.n_embd),
            "self_attn.k_proj": (self.n_kv, self.n_embd),
            "self_attn.v_proj": (self.n_kv, self.n_embd),
            "self_attn.o_proj": (self.n_embd, self.n_embd),
            "mlp.gate_proj": (self.n_ff, self.n_embd),
            "mlp.up_proj": (self.n_ff, self.n_embd),
            "mlp.down_proj": (self.n_embd, self.n_ff),
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor under its Hugging Face name, in the order of the file."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.n_vocab, self.n_embd)}
        for layer in range(self.n_layer):
            prefix = f"model.layers.{layer}"
            shapes |= {f"{prefix}.{name}.weight": shape for name, shape in self.layer_matrices().items()}
            shapes |= {f"{prefix}.{name}.weight": (self.n_embd,) for name in LAYER_NORMS}
        return shapes | {"model.norm.weight": (self.n_embd,), "lm_head.weight": (self.n_vocab, self.n_embd)}


LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")
TINY = Shape(n_embd=256, n_ff=512, n_layer=2, n_head=8, n_head_kv=4)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> the bits of bfloat16 (uint16), to nearest, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str, arrays) -> None:
    """Writes one array after the other; arrays: the data in the order of shapes."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * {"BF16": 2, "F32": 4}[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            file.write(array.data)


def make_model(directory: Path, shape: Shape, seed: int = 0) -> Path:
    """A checkpoint with a tokenizer, about 2 bytes per parameter. Returns directory."""
    if (directory / "complete").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tensors = shape.tensors()

    def arrays():
        for tensor_shape in tensors.values():
            x = rng.standard_normal(tensor_shape, dtype=np.float32)
            yield to_bf16(x * np.float32(0.02) if len(tensor_shape) == 2 else 1 + x * np.float32(0.1))

    write_safetensors(directory / "model.safetensors", tensors, "BF16", arrays())
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.n_embd,
        "intermediate_size": shape.n_ff,
        "max_position_embeddings": 2048,
        "num_attention_heads": shape.n_head,
        "num_hidden_layers": shape.n_layer,
        "num_key_value_heads": shape.n_head_kv,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": shape.n_vocab,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    tokenizer_config = {"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2))
    shutil.copyfile(vocabulary(), directory / "tokenizer.model")
    (directory / "complete").touch()
    return directory


def vocabulary() -> Path:
    """A SentencePiece model of 32,000 pieces. Raises FileNotFoundError where mistral-common is not installed."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("pip install mistral-common: the benchmarks borrow its vocabulary")
    return Path(spec.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"


def make_adapter(directory: Path, shape: Shape, seed: int = 1) -> Path:
    """A PEFT LoRA of rank 16 in float32 on all seven matrices of each layer. Returns directory."""
    if (directory / "complete").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(shape.n_layer):
        for name, (n_rows, n_cols) in shape.layer_matrices().items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            shapes[f"{module}.lora_A.weight"] = (LORA_RANK, n_cols)
            shapes[f"{module}.lora_B.weight"] = (n_rows, LORA_RANK)
    arrays = (rng.standard_normal(s, dtype=np.float32) * np.float32(0.02) for s in shapes.values())
    write_safetensors(directory / "adapter_model.safetensors", shapes, "F32", arrays)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": LORA_RANK,
        "lora_alpha": LORA_ALPHA,
        "target_modules": sorted(name.split(".")[1] for name in shape.layer_matrices()),
        "bias": "none",
        "inference_mode": True,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2))
    (directory / "complete").touch()
    return directory
