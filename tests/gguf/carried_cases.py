"""GGUF files, by gguf's writer, whose quantization by llama-quantize is recorded (tests/golden/carried/make.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.gguf import recipe_cases
from tests.models import bf16_rounded

TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k", "q4_k_m", "q3_k_l", "q2_k", "iq4_xs")


@dataclass(frozen=True)
class CarriedCase:
    """write: (folder) -> the file to name, in that folder. arguments: of llama-quantize, before the file."""

    name: str
    write: Callable[[Path], Path]
    types: tuple[str, ...] = ("f16", "q8_0", "q4_0", "q4_k_m")
    arguments: tuple[str, ...] = ()


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values that bf16 holds, near to gaussian and the same with every NumPy: sums of hashed positions."""
    position = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(sum(name.encode()) * 2654435761)
    total = np.zeros(position.shape)
    for salt in (40503, 2246822519, 3266489917):
        mixed = (position * np.uint64(salt) + np.uint64(salt >> 3)) & np.uint64(0xFFFFFFFF)
        mixed = ((mixed ^ mixed >> np.uint64(15)) * np.uint64(668265263)) & np.uint64(0xFFFFFFFF)
        total += (mixed ^ mixed >> np.uint64(13)).astype(np.float64) / 2**31 - 1
    return bf16_rounded((total * 0.02).astype(np.float32)).reshape(shape)


def header(writer: gguf.GGUFWriter, facts: Any, keys: dict[str, Any]) -> None:
    writer.add_block_count(facts.n_layer)
    writer.add_context_length(4096)
    writer.add_embedding_length(512)
    writer.add_feed_forward_length(1024)
    writer.add_head_count(facts.n_head)
    writer.add_head_count_kv(facts.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(320)
    if facts.n_expert:
        writer.add_expert_count(facts.n_expert)
    for key, value in keys.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"{facts.architecture}.{key}", value)


def add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    if kind in ("f32", "f16", "i32"):
        writer.add_tensor(name, values.astype({"f32": "<f4", "f16": "<f2", "i32": "<i4"}[kind]))
        return
    block = gguf.GGMLQuantizationType[kind.upper()]
    raw = gguf.quants.quantize(np.ascontiguousarray(values, dtype=np.float32), block)
    writer.add_tensor(name, raw, raw_dtype=block)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def of_recipe(
    name: str, matrices: str = "bf16", shards: int = 0, **more: Callable[[Any], None]
) -> Callable[[Path], Path]:
    """The model of that recipe case, filled. matrices: their type. shards: tensors in each, 0: one file."""
    case = next(case for case in recipe_cases.CASES if case.name == name)

    def write(folder: Path) -> Path:
        path = folder / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, case.facts.architecture, split_max_tensors=shards)
        header(writer, case.facts, case.keys)
        for adder in more.values():
            adder(writer)
        for tensor in case.tensors():
            kind = "f32" if tensor.type == "f32" else matrices
            add(writer, tensor.name, weights(tensor.name, tensor.shape), kind)
        finish(writer)
        return next(iter(sorted(folder.glob(f"{name}*.gguf"))))

    return write


def every_kind_of_key(writer: gguf.GGUFWriter) -> None:
    """Keys that stand before those the quantizer moves, and after; of all value types."""
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_quantization_version(1)
    for kind, value in (
        ("uint8", 200), ("int8", -3), ("uint16", 60000), ("int16", -300), ("uint32", 2**31), ("int32", -(2**30)),
        ("uint64", 2**50), ("int64", -(2**50)), ("float32", 0.1), ("float64", 0.1), ("bool", True),
    ):  # fmt: skip
        getattr(writer, f"add_{kind}")(f"of.{kind}", value)
    writer.add_string("of.string", "Übergröße 🦙")
    writer.add_array("of.strings", ["a", "", "日本"])
    writer.add_array("of.floats", [0.5, -1.25])
    writer.add_array("of.ints", [1, -2, 3])
    writer.add_array("of.booleans", [True, False])


def is_q8_0(writer: gguf.GGUFWriter) -> None:
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def odd_tensors(folder: Path) -> Path:
    """Types that are copied, three dimensions and dimensions of 1, names of no known kind."""
    path = folder / "odd.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    header(writer, recipe_cases.ModelFacts("llama", 2, 8, 4), {})
    for name, shape, kind in (
        ("token_embd.weight", (4, 512), "f16"),
        ("blk.0.attn_v.weight", (1, 512), "bf16"),
        ("blk.0.attn_k.weight", (1, 1, 3, 512), "bf16"),
        ("blk.0.attn_q.weight", (2, 3, 256), "f16"),
        ("blk.0.attn_norm.weight", (512,), "f16"),
        ("blk.0.table", (3, 64), "i32"),
        ("blk.1.ffn_gate_inp.weight", (8, 512), "q8_0"),
        ("blk.1.ffn_up.weight", (2, 512), "q4_0"),
        ("blk.10.ffn_up.weight", (2, 512), "f32"),
        ("blk.1.ffn_down.bias", (2, 512), "bf16"),
        ("output.weight", (4, 512), "q8_0"),
        ("a.b.c", (1,), "f32"),
        ("blkweight", (2, 64), "f16"),
    ):
        add(writer, name, weights(name, shape) * (1000 if kind == "i32" else 1), kind)
    finish(writer)
    return path


CASES = (
    CarriedCase("mha_5_layers", of_recipe("mha_5_layers", keys=every_kind_of_key), TYPES),
    CarriedCase("from_f16", of_recipe("qwen2_tied", "f16"), TYPES),
    CarriedCase(
        "from_q8_0", of_recipe("mha_9_layers", "q8_0", type=is_q8_0), (*TYPES, "copy"), ("--allow-requantize",)
    ),
    CarriedCase("from_q4_1", of_recipe("mha_2_layers", "q4_1"), TYPES, ("--allow-requantize",)),
    CarriedCase("sharded", of_recipe("groups_of_4", shards=7)),
    CarriedCase("odd_tensors", odd_tensors, ("q4_0", "q8_0", "f16", "q4_k_m"), ("--allow-requantize",)),
    *(
        CarriedCase(name, of_recipe(name))
        for name in (
            *("2_experts", "dense_and_experts", "falcon_32_layers", "gpt2_positions", "mamba", "rwkv6_mixes"),
            *("bert_token_types", "gemma3n_two_embeddings", "phi3_joint_projections", "rows_of_16", "rows_of_32_tied"),
            *("deepseek2_latent_attention", "rope_factors"),
        )
    ),
)
