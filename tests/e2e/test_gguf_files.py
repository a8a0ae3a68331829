"""Whole conversions to GGUF against NumPy, gguf's quantizers and ggml's recipes."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import fastconv
from tests import models
from tests.e2e.conftest import expected_tensors, gguf_tensors, merged, write_adapter

FLOATS = ("f32", "f16", "bf16")
BLOCKS = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
NARROW = models.LlamaShape()
WIDE = models.LlamaShape(n_embd=256, n_ff=512, n_head=4, n_head_kv=1)
TIED = models.LlamaShape(n_embd=256, n_ff=288, n_layer=1, tied=True)
BIASED = models.LlamaShape(attention_bias=True, mlp_bias=True, n_layer=1)
HEAD_DIM = models.LlamaShape(head_dim=32, n_head=4, n_head_kv=4, n_layer=1)
SHAPES = {"narrow": NARROW, "wide": WIDE, "tied": TIED, "biased": BIASED, "head_dim": HEAD_DIM}


def expected_type(name: str, values: np.ndarray, outtype: str, tied: bool, pure: bool) -> str:
    """llama-quantize's choice, restated for these models."""
    if values.ndim == 1:
        return "f32"
    if outtype in FLOATS:
        return outtype
    wide = values.shape[1] % 256 == 0
    as_output = name == "output.weight" or (tied and name == "token_embd.weight")
    if outtype == "q6_k" or (as_output and not pure and outtype != "q8_0"):
        return "q6_k" if wide else "q8_0"
    return outtype


@pytest.mark.parametrize("pure", [False, True], ids=["recipe", "pure"])
@pytest.mark.parametrize("outtype", [*FLOATS, *BLOCKS, "q6_k"])
@pytest.mark.parametrize("model", SHAPES)
def test_types_and_bytes(tmp_path: Path, ggml_quantize, model: str, outtype: str, pure: bool) -> None:
    shape = SHAPES[model]
    tensors = models.write_hf(tmp_path / "m", shape)
    fastconv.convert(tmp_path / "m", tmp_path / "out.gguf", outtype=outtype, pure=pure)
    found = gguf_tensors(tmp_path / "out.gguf")
    expected = expected_tensors(tensors, shape)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        type_name, dims, data = found[name]
        assert (name, type_name) == (name, expected_type(name, values, outtype, shape.tied, pure))
        assert dims == values.shape
        assert data == ggml_quantize(values, type_name), name


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_source_types(tmp_path: Path, ggml_quantize, dtype: str) -> None:
    tensors = models.write_hf(tmp_path / "m", NARROW, dtype=dtype)
    fastconv.convert(tmp_path / "m", tmp_path / "out.gguf", outtype="q4_0")
    if dtype == "F16":
        tensors = {name: values.astype(np.float16).astype(np.float32) for name, values in tensors.items()}
    found = gguf_tensors(tmp_path / "out.gguf")
    for name, values in expected_tensors(tensors, NARROW).items():
        assert found[name][2] == ggml_quantize(values, found[name][0]), name


def test_auto_keeps_the_type_of_the_input(tmp_path: Path) -> None:
    for dtype, expected in (("F32", "f32"), ("F16", "f16"), ("BF16", "bf16")):
        models.write_hf(tmp_path / dtype, NARROW, dtype=dtype)
        result = fastconv.convert(tmp_path / dtype)
        assert result.outputs[0].type == expected
        assert Path(result.outputs[0].path) == tmp_path / dtype / f"ggml-model-{expected}.gguf"


@pytest.mark.parametrize("outtype", ["f32", "q4_0", "q8_0"])
def test_lora_is_merged_before_quantizing(tmp_path: Path, ggml_quantize, outtype: str) -> None:
    tensors = models.write_hf(tmp_path / "m", WIDE)
    factors = write_adapter(tmp_path / "a", WIDE, rank=4, alpha=8)
    more = write_adapter(tmp_path / "b", WIDE, rank=3, alpha=3, seed=2)
    result = fastconv.convert(
        tmp_path / "m", tmp_path / "out.gguf", outtype=outtype, lora=[tmp_path / "a", (tmp_path / "b", 0.5)]
    )
    for name, (a, b) in factors.items():
        tensors[name] = merged(merged(tensors[name], a, b, 2.0), *more[name], 0.5)
    found = gguf_tensors(tmp_path / "out.gguf")
    for name, values in expected_tensors(tensors, WIDE).items():
        assert found[name][2] == ggml_quantize(values, found[name][0]), name
    assert [adapter.n_tensors for adapter in result.adapters] == [2 * len(factors)] * 2
    assert len(result.delta_ratios) == len(factors)
    assert all(0 < ratio < 10 for ratio in result.delta_ratios.values())


def test_delta_ratios_are_norms(tmp_path: Path) -> None:
    tensors = models.write_hf(tmp_path / "m", NARROW)
    factors = write_adapter(tmp_path / "a", NARROW, rank=4, alpha=8)
    result = fastconv.convert(tmp_path / "m", tmp_path / "out.gguf", outtype="q4_0", lora=[tmp_path / "a"])
    name = "model.layers.0.mlp.down_proj.weight"
    a, b = (factor.astype(np.float64) for factor in factors[name])
    expected = np.linalg.norm(2 * b @ a) / np.linalg.norm(tensors[name].astype(np.float64))
    assert result.delta_ratios["blk.0.ffn_down.weight"] == pytest.approx(expected, rel=1e-5)


def test_several_types_from_one_read(tmp_path: Path) -> None:
    models.write_hf(tmp_path / "m", WIDE)
    write_adapter(tmp_path / "a", WIDE)
    options = {"lora": [tmp_path / "a"]}
    types = ("q4_0", "q8_0", "f16", "q6_k")
    fastconv.convert(tmp_path / "m", tmp_path / "many-{type}.gguf", outtype=types, **options)
    for outtype in types:
        fastconv.convert(tmp_path / "m", tmp_path / f"one-{outtype}.gguf", outtype=outtype, **options)
        one, many = (tmp_path / f"{kind}-{outtype}.gguf" for kind in ("one", "many"))
        assert one.read_bytes() == many.read_bytes()


@pytest.mark.parametrize("shards", [2, 5])
def test_shards_make_no_difference_to_tensors(tmp_path: Path, shards: int) -> None:
    models.write_hf(tmp_path / "one" / "m", NARROW)
    models.write_hf(tmp_path / "many" / "m", NARROW, shards=shards)
    found = []
    for folder in ("one", "many"):
        fastconv.convert(tmp_path / folder / "m", tmp_path / f"{folder}.gguf", outtype="q4_0")
        found.append(gguf_tensors(tmp_path / f"{folder}.gguf"))
    assert found[0] == found[1]


def test_the_file_has_no_byte_too_many(tmp_path: Path) -> None:
    models.write_hf(tmp_path / "m", NARROW)
    result = fastconv.convert(tmp_path / "m", tmp_path / "out.gguf", outtype="q5_1")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    last = max(reader.tensors, key=lambda tensor: tensor.data_offset)
    end = last.data_offset + last.n_bytes
    size = (tmp_path / "out.gguf").stat().st_size
    assert size == result.outputs[0].size == -(-end // 32) * 32
