"""Where everything stands in a GGJT file, which types it holds, and which models it refuses."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from fastconv.errors import PlanError, VocabularyError
from fastconv.layout import ggjt
from fastconv.plan.file_types import file_type
from fastconv.plan.recipe import Recipe
from tests.ggjt import files
from tests.ggjt.conftest import ModelMaker

VERSIONS = (1, 2, 3)
LEGACY = ("f32", "f16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("outtype", LEGACY)
@pytest.mark.parametrize("tied", [False, True])
def test_the_skeleton_reads_back(version, outtype, tied, make_model: ModelMaker, make_vocabulary, tmp_path) -> None:
    model, tensors = make_model(n_vocab=301, tied=tied)
    laid_out = ggjt.lay_out(model, tensors, make_vocabulary(301), file_type(outtype), version, recipe=Recipe(pure=True))
    data = bytearray(laid_out.size)
    for offset, chunk in laid_out.chunks:
        data[offset : offset + len(chunk)] = chunk
    path = tmp_path / "model.bin"
    path.write_bytes(data)

    found = files.read(path)
    assert found.version == version
    assert found.header == {
        "n_vocab": 301,
        "n_embd": 64,
        "n_mult": 192,
        "n_head": 4,
        "n_layer": 2,
        "n_rot": 16,
        "ftype": files.FTYPES[outtype],
    }
    layer = ("attention.wq", "attention.wk", "attention.wv", "attention.wo", "attention_norm")
    layer += ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "ffn_norm")
    expected = ["tok_embeddings", "norm", "output", *[f"layers.{i}.{part}" for i in range(2) for part in layer]]
    assert list(found.tensors) == [f"{name}.weight" for name in expected]
    for placed in laid_out.tensors:
        tensor = found.tensors[placed.name]
        assert tensor.dims == placed.shape[::-1]
        assert tensor.code == files.TYPE_CODES[outtype if len(tensor.dims) == 2 else "f32"]
        assert (tensor.offset, len(tensor.data)) == (placed.offset, placed.size)
    assert laid_out.tensors[2].canonical == ("model.embed_tokens.weight" if tied else "lm_head.weight")


@pytest.mark.parametrize(
    ("outtype", "shape", "pure", "output", "embedding"),
    [
        ("q4_0", (512, 256), False, "q6_k", "q4_0"),
        ("q4_0", (512, 256), True, "q4_0", "q4_0"),
        ("q4_0", (500, 256), False, "q4_0", "q4_0"),
        ("q8_0", (512, 288), False, "q8_0", "q8_0"),
        ("q6_k", (512, 256), False, "q6_k", "q6_k"),
        ("q6_k", (500, 256), False, "f16", "q4_0"),
        ("q6_k", (500, 256), True, "q6_k", "q6_k"),
        ("f16", (512, 256), False, "f16", "f16"),
    ],
)
def test_v3_output_weight_as_the_quantize_tool(outtype, shape, pure, output, embedding) -> None:
    types = [
        ggjt.tensor_type(name, shape, outtype, version=3, pure=pure)
        for name in ("output.weight", "tok_embeddings.weight")
    ]
    assert types == [output, embedding]


@pytest.mark.parametrize("version", [1, 2])
def test_older_versions_hold_one_type(version) -> None:
    blocks = {ggjt.tensor_type(name, (512, 256), "q4_0", version=version) for name in ("output.weight", "x.weight")}
    assert blocks == {f"q4_0_v{version}"}


def test_a_vocabulary_alone(make_model: ModelMaker, make_vocabulary) -> None:
    model, _ = make_model()
    laid_out = ggjt.lay_out(model, {}, make_vocabulary(320), file_type("f32"), 3)
    ((offset, header),) = laid_out.chunks
    assert (offset, laid_out.size, laid_out.tensors) == (0, len(header), ())
    assert struct.unpack_from("<8I", header, 4) == (3, 320, 0, 0, 1, 0, 0, 0)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("outtype", ["bf16", "q6_k"])
def test_types_a_version_cannot_hold(version, outtype, make_model: ModelMaker, make_vocabulary) -> None:
    model, tensors = make_model(n_embd=256, n_ff=768)
    if (version, outtype) == (3, "q6_k"):
        assert ggjt.lay_out(model, tensors, make_vocabulary(320), file_type(outtype), version).size > 0
        return
    with pytest.raises(PlanError, match=rf"^GGJT v{version} cannot hold {outtype}: expected one of f32, f16, q4_0"):
        ggjt.lay_out(model, tensors, make_vocabulary(320), file_type(outtype), version)


def test_rows_that_do_not_divide(make_model: ModelMaker, make_vocabulary) -> None:
    model, tensors = make_model(n_embd=72, n_ff=192)
    message = "^tensor tok_embeddings.weight: q5_0 cannot hold it: found rows of 72 elements, expected a multiple of 32"
    with pytest.raises(PlanError, match=message):
        ggjt.lay_out(model, tensors, make_vocabulary(320), file_type("q5_0"), 2)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
REFUSED: list[tuple[str, tuple[int, ...], dict[str, Any], str]] = [
    ("head_dim", VERSIONS, {"head_dim": 32}, "has no field for the size of a head: found head_dim 32"),
    ("attention_bias", VERSIONS, {"attention_bias": True}, "has no biases"),
    ("mlp_bias", VERSIONS, {"mlp_bias": True}, "has no biases"),
    ("grouped heads", (1, 2), {"n_head_kv": 2}, "knows no grouped heads: found 2 key/value heads, expected 4"),
    ("rope base", (1, 2), {"extra": {"rope_theta": 500000.0}}, "has a fixed rope base: found 500000, expected 10000"),
    ("linear", (1, 2), {"extra": {"rope_scaling": LINEAR}}, "cannot express its rope scaling: found linear"),
    ("yarn", VERSIONS, {"extra": {"rope_scaling": YARN}}, "cannot express its rope scaling: found yarn"),
    ("llama3", VERSIONS, {"extra": {"rope_scaling": LLAMA3}}, "cannot express its rope scaling: found llama3"),
]


@pytest.mark.parametrize(
    ("version", "sizes", "message"),
    [
        pytest.param(version, sizes, message, id=f"v{version} {name}")
        for name, versions, sizes, message in REFUSED
        for version in versions
    ],
)
def test_models_its_readers_cannot_run(version, sizes, message, make_model: ModelMaker, make_vocabulary) -> None:
    model, tensors = make_model(**sizes)
    with pytest.raises(PlanError, match=f"^GGJT v{version} {message}.*; write GGUF instead$"):
        ggjt.lay_out(model, tensors, make_vocabulary(320), file_type("f16"), version)


@pytest.mark.parametrize(
    ("version", "sizes", "notes"),
    [
        (1, {"n_layer": 32}, []),
        (2, {"n_layer": 80}, []),
        (1, {}, ["llama.cpp of GGJT v1 loads models of 32, 40, 60 or 80 layers, this one has 2"]),
        (
            1,
            {"n_layer": 32, "extra": {"rms_norm_eps": 1e-5}},
            ["readers of GGJT v1 normalize with epsilon 1e-06, this model has 1e-05"],
        ),
        (3, {}, ["GGJT holds none of this, so tell its readers: -eps 1e-06"]),
        (
            3,
            {"n_head_kv": 2, "extra": {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "rope_scaling": LINEAR}},
            [
                "GGJT holds none of this, so tell its readers: "
                "-gqa 2 --rope-freq-base 1e+06 --rope-freq-scale 0.25 -eps 1e-05"
            ],
        ),
    ],
)
def test_what_readers_must_be_told(version, sizes, notes, make_model: ModelMaker, make_vocabulary) -> None:
    model, tensors = make_model(**sizes)
    laid_out = ggjt.lay_out(model, tensors, make_vocabulary(320), file_type("f16"), version)
    assert list(laid_out.notes) == notes


@pytest.mark.parametrize("n_vocab", [319, 321])
def test_vocabulary_of_another_size(n_vocab, make_model: ModelMaker, make_vocabulary) -> None:
    model, tensors = make_model(n_vocab=320)
    with pytest.raises(VocabularyError, match=f"found {n_vocab} tokens, expected 320, one per row of the embedding"):
        ggjt.lay_out(model, tensors, make_vocabulary(n_vocab), file_type("f16"), 3)


def readers_n_ff(n_embd: int, n_mult: int, multiplier: float = 1.0) -> int:
    """The formula of llama.cpp's readers (July 2023), in Python's integers."""
    raw = int(multiplier * (2 * (4 * n_embd) // 3))
    return (raw + n_mult - 1) // n_mult * n_mult


@pytest.mark.parametrize(
    ("n_embd", "n_ff", "stated", "expected"),
    [
        (4096, 11008, None, 256),  # LLaMA 7B, and the next three
        (5120, 13824, None, 256),
        (6656, 17920, None, 256),
        (8192, 22016, 256, 256),
        (3200, 8640, None, 240),  # OpenLLaMA 3B
        (2048, 5632, None, 256),  # TinyLlama
        (4096, 14336, None, 14336),  # Mistral 7B
        (4096, 11008, 512, 256),  # a statement that does not fit
    ],
)
def test_n_mult_gives_the_feed_forward_size(n_embd, n_ff, stated, expected, make_model: ModelMaker) -> None:
    import dataclasses

    model, _ = make_model(n_embd=64, n_ff=192)
    hparams = dataclasses.replace(model.hparams, n_embd=n_embd, n_ff=n_ff, n_mult=stated)
    found = ggjt.n_mult(hparams, 3)
    assert readers_n_ff(n_embd, found) == n_ff
    assert found == expected


def test_n_mult_of_llama_2_70b(make_model: ModelMaker) -> None:
    import dataclasses

    model, _ = make_model()
    hparams = dataclasses.replace(model.hparams, n_embd=8192, n_ff=28672, n_layer=80, n_head=64, n_head_kv=8)
    assert readers_n_ff(8192, ggjt.n_mult(hparams, 3), 1.3) == 28672
    assert ggjt.n_mult(dataclasses.replace(hparams, n_mult=4096), 3) == 4096


def test_feed_forward_too_small(make_model: ModelMaker, make_vocabulary) -> None:
    model, tensors = make_model(n_embd=64, n_ff=128)
    with pytest.raises(
        PlanError, match="found n_ff 128 at n_embd 64, expected n_ff of 170 or more; write GGUF instead"
    ):
        ggjt.lay_out(model, tensors, make_vocabulary(320), file_type("f16"), 3)
