"""LoRA adapters in GGUF, written by gguf's writer as convert_lora_to_gguf.py does, against the same ones of PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import fastconv
from fastconv.errors import AdapterError
from tests.e2e.conftest import gguf_name, gguf_tensors, interleave, write_adapter
from tests.models import LlamaShape, write_hf, write_safetensors

SHAPE = LlamaShape()
KEYS: dict[str, Any] = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0}
Tensors = dict[str, np.ndarray | tuple[np.ndarray, gguf.GGMLQuantizationType]]


def write(path: Path, tensors: Tensors, keys: dict[str, Any] | None = None, architecture: str = "llama") -> None:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (KEYS if keys is None else keys).items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for name, values in tensors.items():
        if isinstance(values, tuple):
            writer.add_tensor(name, gguf.quants.quantize(*values), raw_dtype=values[1])
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def as_gguf(factors: dict[str, tuple[np.ndarray, np.ndarray]]) -> Tensors:
    tensors: Tensors = {}
    for name, (a, b) in factors.items():
        heads = {"q_proj": SHAPE.n_head, "k_proj": SHAPE.n_head_kv}.get(name.split(".")[-2])
        stored = gguf_name(name, SHAPE.n_layer)
        tensors[f"{stored}.lora_a"] = a
        tensors[f"{stored}.lora_b"] = np.ascontiguousarray(interleave(b, heads)) if heads else b
    return tensors


@pytest.mark.parametrize("source", ["m", "m.gguf"])
def test_the_same_as_the_adapter_of_peft(tmp_path: Path, source: str) -> None:
    write_hf(tmp_path / "m", SHAPE)
    fastconv.convert(tmp_path / "m", tmp_path / "m.gguf", outtype="bf16")
    factors = write_adapter(tmp_path / "peft", SHAPE, rank=4, alpha=8)
    write(tmp_path / "a.gguf", as_gguf(factors))
    results = [
        fastconv.convert(tmp_path / source, tmp_path / f"{name}.out", outtype="f32", lora=[(tmp_path / name, 0.75)])
        for name in ("peft", "a.gguf")
    ]
    assert (tmp_path / "a.gguf.out").read_bytes() == (tmp_path / "peft.out").read_bytes()
    assert results[0].delta_ratios == results[1].delta_ratios
    assert [result.adapters[0].n_tensors for result in results] == [2 * len(factors)] * 2
    assert results[0].adapters[0].scales == results[1].adapters[0].scales
    assert [fastconv.inspect(tmp_path / name).kind for name in ("a.gguf", "m.gguf")] == ["adapter", "gguf"]


def test_embeddings_norms_and_ranks_of_their_own(tmp_path: Path) -> None:
    tensors = write_hf(tmp_path / "m", SHAPE)
    rng = np.random.default_rng(1)
    a, b = (rng.normal(0, 0.1, dims).astype(np.float32) for dims in ((320, 4), (64, 4)))
    down_a, down_b = (rng.normal(0, 0.1, dims).astype(np.float32) for dims in ((2, 160), (64, 2)))
    norm = rng.normal(1, 0.1, 64).astype(np.float32)
    write(
        tmp_path / "a.gguf",
        {
            "token_embd.weight.lora_a": a,
            "token_embd.weight.lora_b": b,
            "blk.1.ffn_down.weight.lora_a": down_a,
            "blk.1.ffn_down.weight.lora_b": down_b,
            "blk.0.attn_norm.weight": norm,
        },
    )
    fastconv.convert(tmp_path / "m", tmp_path / "out.gguf", outtype="f32", lora=tmp_path / "a.gguf")
    found = {
        name: np.frombuffer(raw, "<f4").reshape(dims)
        for name, (_, dims, raw) in gguf_tensors(tmp_path / "out.gguf").items()
    }
    want = tensors["model.embed_tokens.weight"] + 8 / 4 * a @ b.T
    np.testing.assert_allclose(found["token_embd.weight"], want, atol=1e-6)
    want = tensors["model.layers.1.mlp.down_proj.weight"] + 8 / 2 * down_b @ down_a
    np.testing.assert_allclose(found["blk.1.ffn_down.weight"], want, atol=1e-6)
    np.testing.assert_array_equal(found["blk.0.attn_norm.weight"], norm)


def test_q8_0_factors_and_no_alpha(tmp_path: Path) -> None:
    tensors = write_hf(tmp_path / "m", SHAPE)
    rng = np.random.default_rng(1)
    a, b = (rng.normal(0, 0.1, dims).astype(np.float32) for dims in ((32, 64), (64, 32)))
    kind = gguf.GGMLQuantizationType.Q8_0
    stored = {"blk.0.attn_q.weight.lora_a": (a, kind), "blk.0.attn_q.weight.lora_b": (b, kind)}
    write(tmp_path / "a.gguf", stored, KEYS | {"adapter.lora.alpha": 0.0})
    fastconv.convert(tmp_path / "m", tmp_path / "out.gguf", outtype="f32", lora=tmp_path / "a.gguf")
    _, dims, raw = gguf_tensors(tmp_path / "out.gguf")["blk.0.attn_q.weight"]
    a, b = (gguf.quants.dequantize(gguf.quants.quantize(factor, kind), kind) for factor in (a, b))
    want = interleave(tensors["model.layers.0.self_attn.q_proj.weight"], SHAPE.n_head) + b @ a
    np.testing.assert_allclose(np.frombuffer(raw, "<f4").reshape(dims), want, atol=1e-6)


A, B = np.ones((4, 64), np.float32), np.ones((64, 4), np.float32)
GOOD: Tensors = {"blk.0.attn_q.weight.lora_a": A, "blk.0.attn_q.weight.lora_b": B}


@pytest.mark.parametrize(
    ("tensors", "keys", "message"),
    [
        (GOOD, KEYS | {"general.type": "model"}, r"general.type does not fit: found model, expected adapter"),
        (GOOD, KEYS | {"adapter.type": "control"}, r"adapter.type does not fit: found control, expected lora"),
        (GOOD, KEYS | {"adapter.lora.alpha": 8}, r"adapter.lora.alpha is missing or no number"),
        (GOOD, KEYS | {"adapter.alora.invocation_tokens": [1]}, r"acts on some tokens only"),
        ({"blk.0.attn_q.weight.lora_a": A}, KEYS, r"attn_q.weight.lora_a: has no other factor beside it"),
        ({"blk.7.attn_q.weight.lora_a": A}, KEYS, r"blk.7.attn_q.weight.lora_a: the model has no such tensor"),
        ({"blk.0.attn_q.weight": B}, KEYS, r"blk.0.attn_q.weight: is neither a factor nor a norm"),
        (GOOD | {"blk.0.attn_q.weight.lora_b": B[0]}, KEYS, r"lora_b: is not a matrix: found \[4\]"),
        (GOOD | {"blk.0.attn_q.weight.lora_b": B[:, :2]}, KEYS, r"has another shape than the model"),
        (GOOD | {"blk.0.attn_q.weight.lora_a": A[:, :32]}, KEYS, r"has another shape than the model"),
        (
            GOOD | {"blk.0.attn_q.weight.lora_b": B.astype(np.int32)},
            KEYS,
            r"has a type that cannot be applied: found i32",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, tensors: Tensors, keys: dict[str, Any], message: str) -> None:
    write_hf(tmp_path / "m", SHAPE)
    tensors = {
        name: values if isinstance(values, tuple) else np.ascontiguousarray(values) for name, values in tensors.items()
    }
    write(tmp_path / "a.gguf", tensors, keys)
    with pytest.raises(AdapterError, match=message):
        fastconv.convert(tmp_path / "m", tmp_path / "out.gguf", lora=tmp_path / "a.gguf")


def test_architectures_must_agree(tmp_path: Path) -> None:
    write_hf(tmp_path / "m", SHAPE)
    write(tmp_path / "a.gguf", GOOD, architecture="qwen2")
    with pytest.raises(AdapterError, match=r"general.architecture does not fit: found qwen2, expected llama"):
        fastconv.convert(tmp_path / "m", tmp_path / "out.gguf", lora=tmp_path / "a.gguf")
    other = tmp_path / "other"
    write_hf(other, SHAPE)
    (other / "config.json").write_text('{"architectures": ["UnknownForCausalLM"], "model_type": "unknown"}')
    write_safetensors(other / "model.safetensors", {"x.weight": B}, "F32")
    with pytest.raises(AdapterError, match="is in GGUF, whose names need a known architecture"):
        fastconv.convert(other, tmp_path / "out", to="hf", lora=tmp_path / "a.gguf")
