"""Planted defects: each must be found, and the tensor or key named."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from fastconv import convert, quantize
from fastconv.verification.findings import Verification
from fastconv.verification.verify import verify
from tests import models
from tests.verification.conftest import SHAPE, write_adapter
from tests.verification.gguf_parts import GgufParts, Part, f32, u32

Q, K, V = "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"
BYTES = {"q4_0": (32, 18), "q8_0": (32, 34), "q4_k": (256, 144), "q6_k": (256, 210)}
Plant = Callable[[GgufParts], None]


@dataclass(frozen=True)
class Defect:
    """types: what it is planted in. named: where the finding must be: a tensor's name, or words of a broken rule."""

    name: str
    plant: Plant
    named: str
    types: tuple[str, ...] = ("q8_0", "q4_0", "q4_k_m")
    reason: str = ""


def swap(first: str, second: str) -> Plant:
    def plant(file: GgufParts) -> None:
        one, other = file.part(first), file.part(second)
        assert one.type == other.type
        one.data, other.data = other.data, one.data

    return plant


def flip(name: str, byte: int, bit: int) -> Plant:
    def plant(file: GgufParts) -> None:
        file.part(name).data[byte] ^= 1 << bit

    return plant


def encoded_as(part: Part, values: np.ndarray) -> bytearray:
    if part.type in (0, 1, 30):
        return bytearray(models.encoded(values, {0: "F32", 1: "F16", 30: "BF16"}[part.type]))
    type_name = {2: "q4_0", 8: "q8_0", 12: "q4_k", 14: "q6_k"}[part.type]
    return bytearray(quantize(np.ascontiguousarray(values, np.float32), type_name).tobytes())


def replaced(name: str, source: str, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    def plant(file: GgufParts) -> None:
        values = models.random_tensors(SHAPE)[source]
        file.part(name).data = encoded_as(file.part(name), change(values))

    return plant


def set_key(key: str, raw: bytes) -> Plant:
    def plant(file: GgufParts) -> None:
        file.keys[key] = raw

    return plant


def without(name: str) -> Plant:
    def plant(file: GgufParts) -> None:
        file.parts.remove(file.part(name))

    return plant


def renamed(name: str, new: str) -> Plant:
    def plant(file: GgufParts) -> None:
        file.part(name).name = new

    return plant


def surplus(file: GgufParts) -> None:
    file.parts.append(Part("blk.0.attn_extra.weight", (4,), 0, bytearray(16)))


def shifted(amount: int) -> Plant:
    def plant(file: GgufParts) -> None:
        file.part(V).shift = amount

    return plant


def tail(file: GgufParts) -> None:
    file.tail = bytes(64)


def relabelled(file: GgufParts) -> None:
    file.part(V).type = {1: 30, 30: 1}[file.part(V).type]


def zeroed(file: GgufParts) -> None:
    file.part(V).data = bytearray(len(file.part(V).data))


def zeroed_page(file: GgufParts) -> None:
    file.part(V).data[4096:8192] = bytes(4096)


def rows_moved(file: GgufParts) -> None:
    part = file.part(V)
    row = len(part.data) // 256
    part.data = part.data[row:] + part.data[:row]


def block_moved(file: GgufParts) -> None:
    part = file.part(V)
    size = {2: 18, 8: 34, 12: 144, 14: 210}[part.type]
    part.data[0:size], part.data[size : 2 * size] = part.data[size : 2 * size], part.data[0:size]


def scale_bytes(value: float) -> Plant:
    def plant(file: GgufParts) -> None:
        part = file.part(V)
        # The scale is first in blocks of 32 and Q4_K, last in Q6_K.
        at = 208 if part.type == 14 else 0
        part.data[at : at + 2] = np.float16(value).tobytes()

    return plant


def other_token(file: GgufParts) -> None:
    raw = bytearray(file.keys["tokenizer.ggml.tokens"])
    raw[-1] ^= 1
    file.keys["tokenizer.ggml.tokens"] = bytes(raw)


def fewer_tokens(file: GgufParts) -> None:
    raw = file.keys["tokenizer.ggml.tokens"]
    count = int.from_bytes(raw[8:16], "little")
    at = 16
    for _ in range(count - 1):
        at += 8 + int.from_bytes(raw[at : at + 8], "little")
    file.keys["tokenizer.ggml.tokens"] = raw[:8] + struct.pack("<Q", count - 1) + raw[16:][: at - 16]


def other_norm(file: GgufParts) -> None:
    file.part("blk.0.attn_norm.weight").data = bytearray(file.part("blk.0.ffn_norm.weight").data)


def nan_norm(file: GgufParts) -> None:
    file.part("output_norm.weight").data[8:12] = struct.pack("<f", math.nan)


Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
V_PROJ = "model.layers.0.self_attn.v_proj.weight"
DEFECTS = [
    Defect("swapped q and k", swap(Q, K), Q, reason="little to do with"),
    Defect("swapped layers", swap("blk.0.attn_q.weight", "blk.1.attn_q.weight"), "blk.1.attn_q.weight"),
    Defect("missing permutation", replaced(Q, Q_PROJ, lambda x: x), Q, reason="little to do with"),
    Defect("transposed matrix", replaced(V, V_PROJ, lambda x: x.T), V, reason="little to do with"),
    Defect("rows off by one", rows_moved, V, reason="little to do with"),
    Defect("negated", replaced(V, V_PROJ, lambda x: -x), V),
    Defect("scaled by two", replaced(V, V_PROJ, lambda x: 2 * x), V, reason="beyond"),
    Defect("rounded to fewer bits", replaced(V, V_PROJ, lambda x: np.round(x * 128) / 128), V),
    Defect("one bit of a scale", flip(V, 0, 0), V, reason="damaged"),
    Defect("high bit of a scale", flip(V, 1, 5), V),
    Defect("sign of a scale", flip(V, 1, 7), V),
    Defect("one bit of a level", flip(V, 17, 0), V),
    Defect("high bit of the last level", flip(V, -1, 7), V),
    Defect("two blocks swapped", block_moved, V),
    Defect("zeroed page", zeroed_page, V, reason="beyond"),
    Defect("zeroed tensor", zeroed, V, reason="all its values are zero"),
    Defect("NaN scale", scale_bytes(math.nan), V, reason="not finite"),
    Defect("infinite scale", scale_bytes(math.inf), V, reason="not finite"),
    Defect("zero scale", scale_bytes(0), V),
    Defect("wrong norm", other_norm, "blk.0.attn_norm.weight"),
    Defect("bit of a norm", flip("output_norm.weight", 1, 0), "output_norm.weight"),
    Defect("NaN in a norm", nan_norm, "output_norm.weight", reason="not finite"),
    Defect("wrong dtype label", relabelled, V, ("f16", "bf16")),
    Defect("bit of a half", flip(V, 0, 0), V, ("f16", "bf16", "f32"), reason="damaged"),
    Defect("missing tensor", without("blk.1.ffn_up.weight"), "blk.1.ffn_up.weight"),
    Defect(
        "missing layer",
        lambda f: [without(p.name)(f) for p in list(f.parts) if p.name.startswith("blk.1.")] and None,
        "block_count",
    ),
    Defect("billions of layers", set_key("llama.block_count", u32(2**32 - 1)), "blk.2 is missing"),
    Defect(
        "a layer of billions", renamed("blk.1.ffn_up.weight", "blk.999999999.ffn_up.weight"), "is beyond block_count"
    ),
    Defect("surplus tensor", surplus, "blk.0.attn_extra.weight"),
    Defect("misaligned offset", shifted(8), V),
    Defect("overlapping tensors", shifted(-32), V),
    Defect("hole before a tensor", shifted(32), V, ("f32",)),
    Defect("bytes after the end", tail, "does not end"),
    Defect("wrong rope base", set_key("llama.rope.freq_base", f32(500000.0)), "llama.rope.freq_base"),
    Defect("wrong epsilon", set_key("llama.attention.layer_norm_rms_epsilon", f32(1e-6)), "layer_norm_rms_epsilon"),
    Defect("epsilon zero", set_key("llama.attention.layer_norm_rms_epsilon", f32(0)), "layer_norm_rms_epsilon"),
    Defect("wrong number of heads", set_key("llama.attention.head_count", u32(8)), "llama.attention.head_count"),
    Defect("wrong metadata type", set_key("llama.block_count", struct.pack("<Ii", 5, 2)), "llama.block_count"),
    Defect(
        "wrong element type",
        set_key("tokenizer.ggml.scores", struct.pack("<IIQi", 9, 5, 1, 0)),
        "tokenizer.ggml.scores",
    ),
    Defect("another token", other_token, "tokenizer.ggml.tokens"),
    Defect("a token too few", fewer_tokens, "token_embd.weight"),
    Defect("id beyond the vocabulary", set_key("tokenizer.ggml.unknown_token_id", u32(320)), "unknown_token_id"),
    Defect("missing key", lambda f: f.keys.pop("llama.context_length") and None, "llama.context_length"),
]
PLANTED = [
    pytest.param(defect, outtype, id=f"{defect.name}, {outtype}".replace(" ", "_"))
    for defect in DEFECTS
    for outtype in defect.types
]


def says(found: Verification) -> list[str]:
    return [*map(str, found.findings), *(f"{check.name}: {check.reason}" for check in found.off)]


@pytest.mark.parametrize(("defect", "outtype"), PLANTED)
def test_defect_is_found_and_named(
    defect: Defect, outtype: str, model: Path, converted: Callable[..., Path], tmp_path: Path
) -> None:
    file = GgufParts.read(converted(outtype))
    defect.plant(file)
    found = verify(file.write(tmp_path / "planted.gguf"), against=model)
    assert not found.is_fine
    assert any(defect.named in line and defect.reason in line for line in says(found)), says(found)


# What needs no source to be seen.
SEEN_ALONE = (
    *(
        "NaN scale",
        "infinite scale",
        "NaN in a norm",
        "missing tensor",
        "billions of layers",
        "missing layer",
        "surplus tensor",
    ),
    *("misaligned offset", "overlapping tensors", "hole before a tensor", "bytes after the end", "epsilon zero"),
    *("wrong metadata type", "wrong element type", "a token too few", "id beyond the vocabulary", "missing key"),
)


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.name in SEEN_ALONE], ids=lambda d: d.name.replace(" ", "_"))
def test_defect_is_found_without_a_source(defect: Defect, converted: Callable[..., Path], tmp_path: Path) -> None:
    file = GgufParts.read(converted(defect.types[0]))
    defect.plant(file)
    found = verify(file.write(tmp_path / "planted.gguf"))
    assert any(defect.named in line for line in says(found)), says(found)


@pytest.mark.parametrize("cut", [1 << 5, 1000, 100_000])
@pytest.mark.parametrize("against", [True, False])
def test_truncated_tail(cut: int, against: bool, model: Path, converted: Callable[..., Path], tmp_path: Path) -> None:
    data = converted("q8_0").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[:-cut])
    found = verify(path, against=model if against else None)
    assert any("end of the file" in line for line in says(found)), says(found)


@pytest.mark.parametrize("outtype", ["f32", "f16", "q8_0", "q4_0", "q4_k_m"])
@pytest.mark.parametrize("size", [0.02, 0.002])
def test_forgotten_adapter(
    outtype: str, size: float, model: Path, converted: Callable[..., Path], tmp_path: Path
) -> None:
    """At 0.002 what the adapter adds is 8e-6, far below what Q4_0 rounds by (1.7e-3)."""
    adapter = write_adapter(tmp_path / "adapter", size=size)
    found = verify(converted(outtype), against=model, lora=adapter)
    changed = {f"blk.{layer}.attn_{part}.weight" for layer in range(2) for part in "qv"}
    assert {check.name for check in found.off} == changed
    if size == 0.02:
        assert all("change is not in it" in check.reason for check in found.off)
        assert all(check.delta_share == pytest.approx(0, abs=0.3) for check in found.off)


@pytest.mark.parametrize("outtype", ["f16", "q8_0", "q4_0", "q4_k_m"])
def test_adapter_of_another_scale(outtype: str, model: Path, adapter: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    convert(model, path, outtype=outtype, lora=[(adapter, 0.5)])
    found = verify(path, against=model, lora=adapter)
    assert len(found.off) == 4
    assert all(check.delta_share == pytest.approx(0.5, abs=0.2) for check in found.off)


def test_adapter_nobody_told_of(model: Path, adapter: Path, converted: Callable[..., Path]) -> None:
    assert len(verify(converted("q8_0", adapter), against=model).off) == 4


def test_another_model(model: Path, tmp_path: Path) -> None:
    models.write_hf(tmp_path / "other", SHAPE, seed=1)
    convert(tmp_path / "other", tmp_path / "stale.gguf", outtype="q4_0")
    found = verify(tmp_path / "stale.gguf", against=model)
    assert len(found.off) == len(found.tensors)


def change_a_piece(vocabulary: Path) -> None:
    data = vocabulary.read_bytes()
    piece = sentencepiece.SentencePieceProcessor(str(vocabulary)).id_to_piece(300).encode()
    stored = bytes([10, len(piece)]) + piece  # field 1 of the piece's message
    assert data.count(stored) == 1
    vocabulary.write_bytes(data.replace(stored, stored[:-1] + b"Z"))


def test_another_vocabulary(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    models.write_hf(other, SHAPE)
    change_a_piece(other / "tokenizer.model")
    convert(other, tmp_path / "other.gguf", outtype="q8_0")
    found = verify(tmp_path / "other.gguf", against=model)
    assert any("tokenizer.ggml.tokens is not the source's: element 300: found" in line for line in says(found))
    assert not found.off


@pytest.mark.parametrize("version", [1, 3])
def test_ggjt(version: int, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    convert(model, path, to=f"ggjt-v{version}", outtype="q4_0")
    assert verify(path, against=model).is_fine
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    [off] = verify(path, against=model).off
    assert off.name == "layers.1.feed_forward.w3.weight" or off.name.startswith("layers.1.")
    data[-3] ^= 4
    data[36 + 4 + 5] ^= 1
    path.write_bytes(data)
    assert any("token" in line for line in says(verify(path, against=model)))


def test_hugging_face_folder(model: Path, adapter: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "merged", to="hf", lora=adapter)
    assert verify(tmp_path / "merged", against=model, lora=adapter).is_fine
    assert len(verify(tmp_path / "merged", against=model).off) == 4
    weights = tmp_path / "merged" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 64
    weights.write_bytes(data)
    [off] = verify(tmp_path / "merged", against=model, lora=adapter).off
    assert off.name in weights.read_bytes()[8:4000].decode("latin-1")
    config = tmp_path / "merged" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 319}))
    assert any("vocab_size" in line for line in says(verify(tmp_path / "merged")))


@pytest.mark.parametrize("to", ["hf", "litgpt"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"rope_theta": 500000.0},
            "rope_base of its configuration is not the source's: found 500000.0, expected 10000.0",
        ),
        ({"rms_norm_eps": 1e-6}, "norm_eps of its configuration"),
        ({"num_attention_heads": 8, "num_key_value_heads": 8}, "n_head of its configuration"),
        ({"max_position_embeddings": 64}, "n_ctx of its configuration"),
        ({}, "token 300 is not the source's"),
    ],
)
def test_what_stands_beside_the_weights(
    to: str, change: dict[str, object], named: str, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out"
    convert(model, path, to=to)
    assert verify(path, against=model).notes == ()
    if change:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | change))
    else:
        change_a_piece(path / "tokenizer.model")
    found = verify(path, against=model)
    assert any(named in line for line in says(found)), (says(found), found.notes)
    assert not found.off


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layout", ["split", "interleaved"])
def test_litgpt_folder(layout: str, tied: bool, adapter: Path, tmp_path: Path) -> None:
    """Fused tensors against those that they were made of; a tied embedding is in the file twice."""
    models.write_hf(tmp_path / "model", replace(SHAPE, tied=tied))
    convert(tmp_path / "model", tmp_path / "lit", to="litgpt", litgpt_layout=layout, lora=adapter)
    found = verify(tmp_path / "lit", against=tmp_path / "model", lora=adapter)
    assert found.is_fine, says(found)
    assert {check.state for check in found.tensors} == {"exact"}
    assert len(found.tensors) == 21 - 2 * 2  # q, k and v of two layers are one
    qkv = {f"transformer.h.{layer}.attn.{'qkv' if layout == 'split' else 'attn'}.weight" for layer in range(2)}
    assert {check.name for check in verify(tmp_path / "lit", against=tmp_path / "model").off} == qkv
    # One bit.
    other = "interleaved" if layout == "split" else "split"
    convert(tmp_path / "model", tmp_path / "other", to="litgpt", litgpt_layout=other, lora=adapter)
    weights = (tmp_path / "other" / "lit_model.pth").read_bytes()
    assert verify(tmp_path / "other", against=tmp_path / "model", lora=adapter).is_fine
    at = weights.index(models.encoded(models.random_tensors(SHAPE)["model.layers.1.mlp.down_proj.weight"], "BF16"))
    (tmp_path / "other" / "lit_model.pth").write_bytes(weights[:at] + bytes([weights[at] ^ 1]) + weights[at + 1 :])
    [off] = verify(tmp_path / "other", against=tmp_path / "model", lora=adapter).off
    assert off.name == "transformer.h.1.mlp.proj.weight"


@pytest.mark.parametrize("outtype", ["f16", "q8_0", "q4_0", "q4_k_m"])
def test_any_bit(outtype: str, model: Path, converted: Callable[..., Path], tmp_path: Path) -> None:
    """One bit, anywhere in the data: its tensor alone is off."""
    file = GgufParts.read(converted(outtype))
    rng = np.random.default_rng(2)
    for _ in range(15):
        part = file.parts[rng.integers(len(file.parts))]
        at, bit = int(rng.integers(len(part.data))), int(rng.integers(8))
        part.data[at] ^= 1 << bit
        found = verify(file.write(tmp_path / "flipped.gguf"), against=model)
        part.data[at] ^= 1 << bit
        assert [check.name for check in found.off] == [part.name], (at, bit)
