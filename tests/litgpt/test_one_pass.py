"""A LoRA of Lit-GPT merged, renamed and quantized on the way: the bytes that steps would give, in memory that stays."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import convert
from tests.kernels import ggml
from tests.litgpt.conftest import BEFORE, TODAY, LitGPT
from tests.litgpt.families import FAMILIES
from tests.models import LlamaShape, write_hf

LAYOUTS = {TODAY: "split", BEFORE: "interleaved"}
SHAPE = LlamaShape(n_vocab=32000, n_embd=64, n_ff=96, n_layer=2)
HYPER = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_projection": True, "lora_mlp": True}
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def on_a_grid(values: np.ndarray) -> np.ndarray:
    """Multiples of 2^-12: so few digits that sums and products of a merge are exact, whatever their order."""
    return (np.round(values * 2**12) / 2**12).astype(np.float32)


def gguf_name(name: str) -> str:
    found = re.sub(r"model\.layers\.(\d+)\.", r"blk.\1.", name).removesuffix(".weight")
    prefix = re.match(r"blk\.\d+\.", found)
    rest = found[prefix.end() :] if prefix else found
    return f"{prefix[0] if prefix else ''}{GGUF_NAMES[rest]}.weight"


def rotary_pairs(values: np.ndarray, n_head: int) -> np.ndarray:
    """llama.cpp's order of q and k: the halves of each head, row by row in turn."""
    half = values.shape[0] // n_head // 2
    return values.reshape(n_head, 2, half, -1).swapaxes(1, 2).reshape(values.shape)


@pytest.mark.parametrize("version", [TODAY, BEFORE])
@pytest.mark.parametrize("parts", ["qv", "qkv"])
def test_to_gguf_with_a_lora(litgpt: dict[str, LitGPT], version: str, parts: str, tmp_path: Path) -> None:
    """LitGPT merges in f32 and converts, ggml encodes: the same blocks."""
    import torch
    from gguf import GGUFReader

    rng = np.random.default_rng(11)
    names = SHAPE.tensor_shapes().items()
    base = {name: on_a_grid(rng.normal(len(dims) == 1, 0.1, dims)) for name, dims in names}
    hf, lit, lora = tmp_path / "hf", tmp_path / "lit", tmp_path / "lora"
    write_hf(hf, SHAPE, tensors=base, dtype="F32", tokenizer=False)
    lit.mkdir()
    torch.save({name: torch.tensor(values) for name, values in base.items()}, lit / "pytorch_model.bin")
    shutil.copy(hf / "config.json", lit)
    flags = {f"lora_{name}": name[0] in parts for name in ("query", "key", "value")} | {"lora_head": parts == "qkv"}
    sizes = {"vocab_size": SHAPE.n_vocab, "padded_vocab_size": SHAPE.n_vocab}
    config = FAMILIES["llama_grouped"].lit_config() | sizes
    litgpt[version].run(
        [
            {"do": "from_hf", "config": config, "directory": str(lit)},
            {"do": "train_lora", "directory": str(lit), "output": str(lora), "seed": 1, "hyper": HYPER | flags},
        ]
    )
    trained = torch.load(lora / "lit_model.pth.lora", weights_only=False)["model"]
    rounded = {name: torch.tensor(on_a_grid(factor.numpy())) for name, factor in trained.items()}
    torch.save({"model": rounded}, lora / "lit_model.pth.lora")
    litgpt[version].run(
        [
            {"do": "merge", "directory": str(lora), "base": str(lit)},
            {"do": "to_hf", "directory": str(lora), "output": str(tmp_path / "own")},
        ]
    )
    expected = {
        name: tensor.numpy() for name, tensor in torch.load(tmp_path / "own" / "model.pth", weights_only=False).items()
    }
    (lora / "lit_model.pth").unlink()
    for name in ("tokenizer.json", "tokenizer_config.json"):  # empty, to please LitGPT
        (lit / name).unlink()
    tokenizer = resources.files("mistral_common").joinpath("data/tokenizer.model.v1").read_bytes()
    (lit / "tokenizer.model").write_bytes(tokenizer)
    convert(lit / "lit_model.pth", tmp_path / "out.gguf", outtype="q4_0", lora=lora)

    found = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    assert len(found) == len(expected) == len(base)
    n_changed = 0
    for name, values in expected.items():
        n_changed += not np.array_equal(values, base[name])
        for module, n_head in (("q_proj", SHAPE.n_head), ("k_proj", SHAPE.n_head_kv)):
            if module in name:
                values = rotary_pairs(values, n_head)
        tensor = found[gguf_name(name)]
        type = tensor.tensor_type.name.lower()
        if values.ndim == 1:
            assert type == "f32"
            np.testing.assert_array_equal(tensor.data, values)
        else:
            assert type == "q4_0" or name == "lm_head.weight"
            np.testing.assert_array_equal(tensor.data, ggml.quantize(np.ascontiguousarray(values), type), name)
    assert n_changed == SHAPE.n_layer * (len(parts) + 4) + (parts == "qkv")


@pytest.mark.clients
def test_llama_cpp_continues(tmp_path: Path) -> None:
    """With what it says of the merged Hugging Face model."""
    import torch

    from tests.gguf.test_source_clients import SHAPE, continuation, weights

    write_hf(tmp_path / "hf", SHAPE, tensors=weights(), dtype="F16", tokenizer=False)
    tokenizer = resources.files("mistral_common").joinpath("data/tokenizer.model.v1").read_bytes()
    (tmp_path / "hf" / "tokenizer.model").write_bytes(tokenizer)
    options: dict[str, Any] = {"lora_alpha": 16, "lora_qkv": "q,v", "lora_layout": "contiguous"}
    rng = np.random.default_rng(2)
    n_rows = SHAPE.n_embd + SHAPE.n_head_kv * SHAPE.head_size
    state = {}
    for layer in range(SHAPE.n_layer):
        for factor, shape in (("A", (8, SHAPE.n_embd)), ("B", (n_rows, 4))):
            values = torch.tensor(rng.normal(0, 0.2, shape), dtype=torch.float32)
            state[f"transformer.h.{layer}.attn.attn.lora_{factor}"] = values
    torch.save(state, tmp_path / "lora.pth")
    convert(tmp_path / "hf", tmp_path / "lit", to="litgpt", litgpt_layout="interleaved")
    convert(tmp_path / "lit", tmp_path / "out.gguf", outtype="q4_0", lora=tmp_path / "lora.pth", **options)
    convert(tmp_path / "lit", tmp_path / "merged", to="hf", outtype="f32", lora=tmp_path / "lora.pth", **options)
    convert(tmp_path / "merged", tmp_path / "steps.gguf", outtype="q4_0")
    convert(tmp_path / "hf", tmp_path / "base.gguf", outtype="q4_0")
    found = continuation(tmp_path / "out.gguf")
    assert found.strip()
    assert found == continuation(tmp_path / "steps.gguf") != continuation(tmp_path / "base.gguf")


def peak_of_a_merge(folder: Path, n_layer: int) -> tuple[int, int]:
    """Bytes of a Lit-GPT checkpoint, and the peak of a process that merges a LoRA of all its layers into it."""
    import torch

    shape = LlamaShape(n_vocab=320, n_embd=512, n_ff=2048, n_layer=n_layer, n_head=8)
    one = np.random.default_rng(3).normal(0, 0.02, 2048 * 512).astype(np.float32)
    tensors = {name: one[: int(np.prod(dims))].reshape(dims) for name, dims in shape.tensor_shapes().items()}
    write_hf(folder / "hf", shape, tensors=tensors)
    convert(folder / "hf", folder / "lit", to="litgpt")
    names = (f"transformer.h.{layer}.attn.qkv.lora_" for layer in range(n_layer))
    n_rows = shape.n_embd + shape.n_head_kv * shape.head_size
    state = {}
    for name in names:
        state |= {f"{name}A": torch.full((16, 512), 0.01), f"{name}B": torch.full((n_rows, 8), 0.01)}
    (folder / "lora").mkdir()
    torch.save({"model": state}, folder / "lora" / "lit_model.pth.lora")
    hyper = {"lora_r": 8, "lora_alpha": 16, "lora_query": True, "lora_key": False, "lora_value": True}
    (folder / "lora" / "hyperparameters.yaml").write_text(json.dumps(hyper))
    command = ["convert", folder / "lit", "--to", "hf", "--outfile", folder / "out", "--lora", folder / "lora"]
    done = subprocess.run(
        [sys.executable, "-m", "fastconv", *map(str, command), "--json", "--concurrency", "2"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    n_bytes = (folder / "lit" / "lit_model.pth").stat().st_size
    shutil.rmtree(folder)
    return n_bytes, json.loads(done.stdout)["peak_memory_bytes"]


@pytest.mark.memory
def test_memory_stays_while_models_grow(tmp_path: Path) -> None:
    small, peak_of_small = peak_of_a_merge(tmp_path / "small", 5)
    large, peak_of_large = peak_of_a_merge(tmp_path / "large", 15)
    assert large - small > 70e6
    assert peak_of_large - peak_of_small < 10e6
    assert peak_of_large < 200e6
