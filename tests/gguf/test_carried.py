"""GGUF files made from GGUF files, whole, byte for byte, against what llama-quantize of llama.cpp b11434 wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import fastconv
from fastconv.errors import AdapterError, CheckpointError, FastconvError, VocabularyError
from fastconv.types import TYPES
from tests.e2e.conftest import gguf_name, gguf_tensors, interleave, merged, write_adapter
from tests.gguf import carried_cases
from tests.gguf.carried_cases import CASES, CarriedCase
from tests.gguf.cases import CASES as CONVERTED
from tests.gguf.gguf_file import GgufFile
from tests.kernels import ggml
from tests.models import LlamaShape, write_hf, write_safetensors
from tests.verification.gguf_parts import GgufParts, Part

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDED = json.loads((GOLDEN / "carried" / "sha256.json").read_text())
Q = gguf.GGMLQuantizationType
CARRIED = {case.name: case for case in CASES}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_case_is_recorded() -> None:
    assert {name: list(files) for name, files in RECORDED.items()} == {case.name: list(case.types) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_file_equals_llama_quantizes(case: CarriedCase, tmp_path: Path) -> None:
    source = case.write(tmp_path)
    for name, expected in RECORDED[case.name].items():
        target = tmp_path / f"{name}.out"
        fastconv.convert(source, target, outtype="auto" if name == "copy" else name)
        assert sha256(target) == expected, name
        target.unlink()


@pytest.mark.parametrize("name", ["llama", "rope_llama3", "tied"])
def test_what_was_converted_is_quantized_as_llama_quantize_did(name: str, tmp_path: Path) -> None:
    case = next(case for case in CONVERTED if case.name == name)
    recorded = json.loads((GOLDEN / "gguf" / f"{name}.json").read_text("utf-8"))["files"]
    fastconv.convert(case.write(tmp_path), tmp_path / "bf16.gguf", outtype="bf16")
    assert sha256(tmp_path / "bf16.gguf") == recorded["bf16"]["file"]
    for type_name in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k"):
        fastconv.convert(tmp_path / "bf16.gguf", tmp_path / "out.gguf", outtype=type_name, overwrite=True)
        assert sha256(tmp_path / "out.gguf") == recorded[type_name]["file"], type_name


SHAPES = {
    "grouped": LlamaShape(n_embd=256, n_ff=512, n_head=4, n_head_kv=2),
    "tied": LlamaShape(tied=True),
    "biased": LlamaShape(attention_bias=True, mlp_bias=True, n_layer=1),
}


@pytest.mark.parametrize("outtype", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("name", SHAPES)
def test_adapters_meet_the_same_tensors_as_in_the_hugging_face_model(tmp_path: Path, name: str, outtype: str) -> None:
    write_hf(tmp_path / "m", SHAPES[name])
    write_adapter(tmp_path / "a", SHAPES[name])
    lora = [(tmp_path / "a", 0.5)]
    fastconv.convert(tmp_path / "m", tmp_path / "source.gguf", outtype="bf16")
    direct = fastconv.convert(tmp_path / "m", tmp_path / "direct.gguf", outtype=outtype, lora=lora)
    through = fastconv.convert(tmp_path / "source.gguf", tmp_path / "through.gguf", outtype=outtype, lora=lora)
    assert gguf_tensors(tmp_path / "through.gguf") == gguf_tensors(tmp_path / "direct.gguf")
    assert through.delta_ratios == direct.delta_ratios
    if outtype != "f16":  # as one program and as two
        assert (tmp_path / "through.gguf").read_bytes() == (tmp_path / "direct.gguf").read_bytes()


def test_an_adapter_that_unties_the_output(tmp_path: Path) -> None:
    shape = SHAPES["tied"]
    tensors = write_hf(tmp_path / "m", shape)
    head = tensors["model.embed_tokens.weight"] * 2
    (tmp_path / "a").mkdir()
    write_safetensors(tmp_path / "a" / "adapter_model.safetensors", {"base_model.model.lm_head.weight": head}, "F32")
    (tmp_path / "a" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    fastconv.convert(tmp_path / "m", tmp_path / "source.gguf", outtype="bf16")
    fastconv.convert(tmp_path / "source.gguf", tmp_path / "out.gguf", lora=tmp_path / "a")
    found = gguf_tensors(tmp_path / "out.gguf")
    assert found["output.weight"] == ("f32", head.shape, head.tobytes())
    assert {name: found[name] for name in found if name != "output.weight"} == gguf_tensors(tmp_path / "source.gguf")


def test_a_quantized_file_keeps_its_types_and_its_bytes_but_where_adapters_reach(tmp_path: Path) -> None:
    shape = SHAPES["grouped"]
    write_hf(tmp_path / "m", shape)
    factors = write_adapter(tmp_path / "a", shape)
    fastconv.convert(tmp_path / "m", tmp_path / "q.gguf", outtype="q4_0")
    result = fastconv.convert(tmp_path / "q.gguf", tmp_path / "out.gguf", lora=tmp_path / "a")
    assert result.outputs[0].type == "q4_0"
    assert "quantized anew (14 of q4_0)" in "".join(result.notes)
    before, after = gguf_tensors(tmp_path / "q.gguf"), gguf_tensors(tmp_path / "out.gguf")
    changed = {name for name in before if before[name] != after[name]}
    assert {before[name][:2] for name in before} == {after[name][:2] for name in after}
    assert len(changed) == len(factors) == len(result.delta_ratios)


def test_an_adapter_on_quantized_weights_is_added_to_their_values(tmp_path: Path) -> None:
    shape = SHAPES["grouped"]
    write_hf(tmp_path / "m", shape)
    factors = write_adapter(tmp_path / "a", shape)
    fastconv.convert(tmp_path / "m", tmp_path / "q.gguf", outtype="q8_0")
    fastconv.convert(tmp_path / "q.gguf", tmp_path / "out.gguf", lora=tmp_path / "a", outtype="f32")
    before, after = gguf_tensors(tmp_path / "q.gguf"), gguf_tensors(tmp_path / "out.gguf")
    for name, (a, b) in factors.items():
        stored = gguf_name(name, shape.n_layer)
        heads = {"q_proj": shape.n_head, "k_proj": shape.n_head_kv}.get(name.split(".")[-2])
        kind, dims, raw = before[stored]
        base = gguf.quants.dequantize(np.frombuffer(raw, np.uint8).reshape(dims[0], -1), Q[kind.upper()])
        want = merged(base, a, interleave(b, heads) if heads else b, 2.0)
        assert after[stored] == ("f32", dims, want.tobytes()), stored


@pytest.mark.parametrize("kind", [name for name, info in TYPES.items() if info.ggml_type >= 0 and info.decodes])
def test_every_type_is_decoded_as_by_gguf(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(4)
    info = TYPES[kind]
    n_cols = 2 * max(info.block_size, 64)
    raw = rng.integers(0, 250, (6, n_cols // info.block_size * info.block_bytes), dtype=np.uint8)
    if info.block_size > 1:  # scales that are numbers: with the upper bits of f16's exponent off
        raw &= 0xBB
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_block_count(1)
    if info.block_size == 1:
        values = rng.normal(size=(6, n_cols)).astype(np.float32)
        raw = (
            gguf.quants.quantize(values, Q[kind.upper()]).view(np.uint8)
            if kind != "f64"
            else values.astype("<f8").view(np.uint8)
        )
    writer.add_tensor("blk.0.x.weight", raw, raw_dtype=Q[kind.upper()])
    carried_cases.finish(writer)
    fastconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", outtype="f32", nonfinite="keep")
    [(found, dims, data)] = gguf_tensors(tmp_path / "out.gguf").values()
    want = raw.view("<f8").astype("<f4") if kind == "f64" else gguf.quants.dequantize(raw, Q[kind.upper()])
    assert (found, dims) == ("f32", (6, n_cols))
    np.testing.assert_array_equal(np.frombuffer(data, "<f4").reshape(dims), want)


def test_a_copy_is_a_copy(tmp_path: Path) -> None:
    write_hf(tmp_path / "m", SHAPES["grouped"])
    fastconv.convert(tmp_path / "m", tmp_path / "q.gguf", outtype="q4_0")
    result = fastconv.convert(tmp_path / "q.gguf")
    assert result.outputs[0].path == str(tmp_path / "ggml-model-q4_0.gguf")
    assert (tmp_path / "ggml-model-q4_0.gguf").read_bytes() == (tmp_path / "q.gguf").read_bytes()
    assert result.notes == ()


def test_a_file_of_its_own_alignment_keeps_it(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_custom_alignment(128)
    writer.add_block_count(1)
    values = {f"blk.0.{name}.weight": np.ones((3, 96), np.float32) * i for i, name in enumerate(("b", "a", "c"))}
    for name, array in values.items():
        writer.add_tensor(name, array)
    carried_cases.finish(writer)
    fastconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", outtype="q8_0")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    assert [tensor.name for tensor in reader.tensors] == sorted(values)
    assert all(tensor.data_offset % 128 == 0 for tensor in reader.tensors)
    for tensor in reader.tensors:
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_allclose(found, values[tensor.name], rtol=1e-3)


def test_tensors_of_four_dimensions_and_of_types_without_a_decoder(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_block_count(1)
    deep = np.random.default_rng(1).normal(size=(2, 3, 4, 64)).astype(np.float32)
    writer.add_tensor("blk.0.x.weight", deep)
    raw = {}
    for name, kind in (("mxfp4", gguf.GGMLQuantizationType.MXFP4), ("nvfp4", gguf.GGMLQuantizationType.NVFP4)):
        _, size = gguf.GGML_QUANT_SIZES[kind]
        raw[name] = np.random.default_rng(2).integers(0, 256, (4, 2 * size), dtype=np.uint8)
        writer.add_tensor(f"blk.0.{name}", raw[name], raw_dtype=kind)
    carried_cases.finish(writer)
    fastconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", outtype="q8_0")
    found = gguf_tensors(tmp_path / "out.gguf")
    assert found["blk.0.x.weight"][:2] == ("q8_0", deep.shape)
    assert found["blk.0.x.weight"][2] == ggml.quantize(deep.reshape(-1, 64), "q8_0").tobytes()
    for name, blocks in raw.items():
        assert found[f"blk.0.{name}"][0] == name
        assert found[f"blk.0.{name}"][2] == blocks.tobytes()


def test_keys_that_options_set(tmp_path: Path) -> None:
    write_hf(tmp_path / "m", SHAPES["tied"])
    fastconv.convert(tmp_path / "m", tmp_path / "in.gguf", outtype="f16")
    fastconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", n_ctx=99, rms_eps=0.25, rope_base=5e5)
    before, after = (GgufFile(tmp_path / name).keys for name in ("in.gguf", "out.gguf"))
    given = [
        ("llama.attention.layer_norm_rms_epsilon", "float32", 0.25),
        ("llama.rope.freq_base", "float32", 5e5),
        ("llama.context_length", "uint32", 99),
    ]
    assert after[-3:] == given
    names = {key for key, *_ in given}
    assert set(map(str, after[:-3])) == {str(row) for row in before if row[0] not in names}


def test_the_keys_alone(tmp_path: Path) -> None:
    write_hf(tmp_path / "m", SHAPES["tied"])
    fastconv.convert(tmp_path / "m", tmp_path / "in.gguf", outtype="f16")
    fastconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", vocab_only=True)
    found = GgufFile(tmp_path / "out.gguf")
    assert found.tensors == []
    assert found.size == len(found.header)
    assert {str(row) for row in found.keys} == {str(row) for row in GgufFile(tmp_path / "in.gguf").keys}


def write_plain(path: Path, architecture: str = "llama", tensors: dict[str, Any] | None = None, **keys: Any) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in ({"block_count": 1} | keys).items():
        if value is not None:
            writer.add_key_value(f"{architecture}.{key}", value, gguf.GGUFValueType.get_type(value))
    for name, array in (tensors or {"token_embd.weight": np.ones((4, 64), np.float32)}).items():
        if isinstance(array, tuple):
            writer.add_tensor(name, array[0], raw_dtype=array[1])
        else:
            writer.add_tensor(name, array)
    carried_cases.finish(writer)


EMBEDDING = {"token_embd.weight": np.ones((4, 64), np.float32)}
MXFP4 = {"blk.0.a.weight": (np.zeros((4, 34), np.uint8), gguf.GGMLQuantizationType.MXFP4)}
FULL = {
    "embedding_length": 64,
    "attention.head_count": 4,
    "feed_forward_length": 64,
    "context_length": 64,
    "attention.layer_norm_rms_epsilon": 1e-5,
}


@pytest.mark.parametrize(
    ("written", "options", "message"),
    [
        ({"block_count": None}, {}, r"llama.block_count is missing or not a number"),
        ({"attention.head_count": "two"}, {}, r"llama.attention.head_count is missing or not a number: found two"),
        ({"tensors": MXFP4}, {}, r"blk.0.a.weight: mxfp4 cannot be decoded; keep its type"),
        ({}, {"vocab_dir": "."}, r"--vocab-dir does not go with a GGUF file as source"),
        ({}, {"vocab_type": "spm"}, r"--vocabtype does not go with a GGUF file as source"),
        (
            {"architecture": "mamba"},
            {"lora": "a"},
            r"architecture is not supported: found mamba, expected one of llama",
        ),
        ({}, {"lora": "a"}, r"llama.attention.head_count is missing: expected an integer"),
        (FULL | {"context_length": 1.5}, {"lora": "a"}, r"llama.context_length is not usable: found 1.5"),
        (
            FULL | {"attention.head_count_kv": 3},
            {"lora": "a"},
            r"llama.attention.head_count_kv is not usable: found 3, expected a divisor of llama.attention.head_count ",
        ),
        (FULL | {"attention.value_length": 8}, {"lora": "a"}, r"attention.value_length is not the size of a head"),
        (FULL | {"rope.dimension_count": 8}, {"lora": "a"}, r"rope.dimension_count is not the size of a head"),
        (FULL | {"rope.scaling.type": "odd"}, {"lora": "a"}, r"llama.rope.scaling.type is not usable: found 'odd'"),
        (FULL, {"lora": "a"}, r"tensor output_norm.weight: is missing; download or copy the checkpoint again"),
        (
            FULL | {"tensors": {"output.weight": np.ones((4, 64), np.float32)}},
            {"lora": "a"},
            r"token_embd.weight: is missing",
        ),
        (
            FULL
            | {
                "tensors": {
                    "token_embd.weight": np.ones((4, 64), np.float32),
                    "rope_freqs.weight": np.ones(8, np.float16),
                }
            },
            {"lora": "a"},
            r"rope_freqs.weight: holds no f32 factors: found f16",
        ),
        (FULL, {"to": "ggjt"}, r"tensor output_norm.weight: is missing; download or copy the checkpoint again"),
    ],
)
def test_what_cannot_be_carried(tmp_path: Path, written: dict[str, Any], options: dict[str, Any], message: str) -> None:
    write_plain(tmp_path / "in.gguf", **written)
    with pytest.raises(FastconvError, match=message):
        fastconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", **({"outtype": "q8_0"} | options))
    assert not (tmp_path / "out.gguf").exists()


FOREIGN = "is not a tensor of this architecture; "
OTHER_SHAPE = "has another shape than"


@pytest.mark.parametrize(
    ("tensor", "shape", "message"),
    [
        ("blk.0.extra.weight", (4,), f"blk.0.extra.weight: {FOREIGN}the model is not what the header says"),
        ("blk.7.attn_q.weight", (64, 64), f"blk.7.attn_q.weight: {FOREIGN}the header says 2 layers"),
        ("blk.0.attn_q.bias", (64,), "blk.0.attn_k.bias: is missing; download or copy the checkpoint again"),
        ("blk.1.attn_q.bias", (64,), f"blk.1.attn_q.bias: {FOREIGN}the model is not what the header says"),
        (
            "output.weight",
            (310, 64),
            f"output.weight: {OTHER_SHAPE} the embedding and the header would have it: found [310, 64], "
            "expected [320, 64]; download or copy the checkpoint again",
        ),
        (
            "blk.0.attn_q.weight",
            (32, 64),
            f"blk.0.attn_q.weight: {OTHER_SHAPE} the header would have it: found [32, 64], expected [64, 64]; "
            "download or copy the checkpoint again",
        ),
    ],
)
def test_what_is_wrong_is_told_in_the_words_of_the_file(
    tensor: str, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    """There is no config.json, and no name of Hugging Face's."""
    write_hf(tmp_path / "m", LlamaShape())
    fastconv.convert(tmp_path / "m", tmp_path / "sound.gguf", outtype="f32")
    file = GgufParts.read(tmp_path / "sound.gguf")
    file.parts = [part for part in file.parts if part.name != tensor]
    file.parts.append(Part(tensor, shape[::-1], 0, bytearray(4 * int(np.prod(shape)))))
    with pytest.raises(FastconvError) as raised:
        fastconv.convert(file.write(tmp_path / "in.gguf"), tmp_path / "out", to="hf")
    assert str(raised.value) == f"{tmp_path / 'in.gguf'}: tensor {message}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("outtype", ["auto", "f16", "q8_0"])
def test_what_is_no_model_is_not_carried(tmp_path: Path, outtype: str) -> None:
    from tests import imatrices

    imatrices.write_gguf(tmp_path / "in.gguf", imatrices.random_entries({"a.weight": (32, 64)}))
    with pytest.raises(FastconvError, match=r"in.gguf: is no model: .*: found a file of type imatrix"):
        fastconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", outtype=outtype)
    assert not (tmp_path / "out.gguf").exists()


def write_vocabulary(path: Path, **changes: Any) -> None:
    """A whole model with these keys of tokenizer.ggml; None: without."""
    write_hf(path.parent / "m", SHAPES["tied"])
    fastconv.convert(path.parent / "m", path.parent / "whole.gguf", outtype="f16")
    reader = gguf.GGUFReader(path.parent / "whole.gguf")
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        key = name.removeprefix("tokenizer.ggml.")
        value = changes.get(key, field.contents())
        if not name.startswith("GGUF.") and name != "general.architecture" and value is not None:
            kind = gguf.GGUFValueType.get_type(value) if key in changes else field.types[0]
            writer.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    carried_cases.finish(writer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, r"holds a vocabulary of an unknown kind: found bert, expected llama or gpt2"),
        ({"model": ["llama"]}, r"holds a vocabulary of an unknown kind: found \['llama'\]"),
        ({"pre": ["default"]}, r"tokenizer.ggml.pre is of the wrong type: found \['default'\]"),
        ({"tokens": None}, r"tokenizer.ggml.tokens is missing or no array of str"),
        ({"tokens": [1, 2]}, r"tokenizer.ggml.tokens is missing or no array of str"),
        ({"scores": [1, 2]}, r"tokenizer.ggml.scores is missing or no array of float"),
        ({"scores": [0.5]}, r"scores and tokens are of different lengths: found 1, expected 320"),
        ({"token_type": [1]}, r"token_type and tokens are of different lengths: found 1, expected 320"),
        ({"model": "gpt2", "merges": [1]}, r"merges is missing or no array of str"),
        (
            {"tokens": ["x"] * 400, "scores": [0.5] * 400, "token_type": [1] * 400},
            r"more tokens than its embedding has",
        ),
    ],
)
def test_vocabularies_that_cannot_be_read(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_vocabulary(tmp_path / "in.gguf", **changes)
    with pytest.raises(VocabularyError, match=message):
        fastconv.convert(tmp_path / "in.gguf", tmp_path / "out.bin", to="ggjt")


def test_a_vocabulary_that_grows_is_refused(tmp_path: Path) -> None:
    shape = SHAPES["tied"]
    tensors = write_hf(tmp_path / "m", shape)
    more = np.vstack([tensors["model.embed_tokens.weight"]] * 2)
    (tmp_path / "a").mkdir()
    stored = {"base_model.model.model.embed_tokens.weight": more, "base_model.model.lm_head.weight": more}
    write_safetensors(tmp_path / "a" / "adapter_model.safetensors", stored, "F32")
    (tmp_path / "a" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    fastconv.convert(tmp_path / "m", tmp_path / "in.gguf", outtype="f16")
    with pytest.raises(
        AdapterError, match="changes the vocabulary, which a GGUF file carries with it: found 640 tokens"
    ):
        fastconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", lora=tmp_path / "a")


def shards(folder: Path) -> list[Path]:
    CARRIED["sharded"].write(folder)
    return sorted(folder.glob("*.gguf"))


def test_any_shard_stands_for_all(tmp_path: Path) -> None:
    found = shards(tmp_path)
    assert len(found) > 2
    for path in (found[0], found[-1]):
        fastconv.convert(path, tmp_path / "out", outtype="q4_0", overwrite=True)
        assert sha256(tmp_path / "out") == RECORDED["sharded"]["q4_0"]
    assert len(fastconv.inspect(found[1]).tensors) == len(fastconv.inspect(tmp_path / "out").tensors)


def test_shards_that_do_not_belong_together(tmp_path: Path) -> None:
    found = shards(tmp_path)
    swapped = found[1].read_bytes()
    found[1].write_bytes(found[2].read_bytes())
    with pytest.raises(CheckpointError, match="is also in"):
        fastconv.convert(found[0], tmp_path / "out")
    third = found[2].read_bytes()
    found[2].write_bytes(swapped)
    with pytest.raises(CheckpointError, match=r"is another shard than its name says: found split.no 2 of split.count"):
        fastconv.convert(found[0], tmp_path / "out")
    found[1].write_bytes(swapped)
    found[2].write_bytes(third)
    found[-1].rename(tmp_path / "alone.gguf")
    with pytest.raises(CheckpointError, match=f"-{len(found):05d}-of-{len(found):05d}.gguf is missing"):
        fastconv.convert(found[0], tmp_path / "out")
    with pytest.raises(CheckpointError, match="is one shard of several"):
        fastconv.convert(tmp_path / "alone.gguf", tmp_path / "out")
