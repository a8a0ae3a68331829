"""Files of llama.cpp before GGUF as sources: every container, version and block, to GGUF and to one another."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv.errors import FastconvError
from tests.e2e.conftest import expected_tensors, gguf_tensors
from tests.ggjt import blocks, files
from tests.gguf.gguf_file import GgufFile
from tests.kernels import ggml
from tests.models import LlamaShape, random_tensors, spm_model, write_hf
from tests.oracle import blocks as oracle

SHAPE = LlamaShape(n_embd=64, n_ff=192, n_head_kv=4, extra={"rms_norm_eps": 1e-6, "max_position_embeddings": 2048})
GROUPED = LlamaShape(n_embd=64, n_ff=192, n_head_kv=2, extra={"rms_norm_eps": 1e-6, "max_position_embeddings": 2048})
QUANTIZED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
MAGICS = {"ggml": b"lmgg", "ggmf": b"fmgg" + struct.pack("<I", 1)}
V1_TYPES = {"q4_0": "q4_0_v1", "q4_1": "q4_1_v1", "q5_0": "q5_0_v1", "q5_1": "q5_1_v1", "q8_0": "q8_0_v1"}
V2_TYPES = V1_TYPES | {"q4_0": "q4_0_v2", "q4_1": "q4_1_v2", "q5_0": "q5_0", "q5_1": "q5_1"}


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return random_tensors(SHAPE, seed=3)


def tokens(n_vocab: int = SHAPE.n_vocab) -> list[tuple[bytes, float]]:
    return files.spm_tokens(spm_model(n_vocab))


def write_old(
    path: Path,
    container: str,
    tensors: dict[str, np.ndarray],
    outtype: str,
    n_parts: int = 1,
    scored: bool = True,
    shape: LlamaShape = SHAPE,
) -> None:
    """The file, or the parts, of the versions before GGJT: no alignment, and no scores in the first."""
    ordered = files.in_file_order(tensors, shape)
    for part in range(n_parts):
        out = MAGICS[container]
        fields = (shape.n_vocab, shape.n_embd, 192, shape.n_head, shape.n_layer, 16, files.FTYPES[outtype])
        out += struct.pack("<7I", *fields)
        for text, score in tokens():
            out += struct.pack("<I", len(text)) + text + (struct.pack("<f", score) if scored else b"")
        for name, values in ordered.items():
            if values.ndim == 2 and n_parts > 1:
                by_columns = name.split(".")[-2] in ("tok_embeddings", "wo", "w2")
                values = np.split(values, n_parts, axis=1 if by_columns else 0)[part]
            stored = outtype if values.ndim == 2 else "f32"
            out += struct.pack("<3I", values.ndim, len(name), files.TYPE_CODES[stored])
            out += struct.pack(f"<{values.ndim}I", *values.shape[::-1]) + name.encode()
            out += blocks.encode(np.ascontiguousarray(values), stored, 1)
        (path if part == 0 else path.with_name(f"{path.name}.{part}")).write_bytes(out)


def decoded(path: Path) -> dict[str, np.ndarray]:
    return {name: decode(kind, shape, data) for name, (kind, shape, data) in gguf_tensors(path).items()}


def decode(kind: str, shape: tuple[int, ...], data: bytes) -> np.ndarray:
    if kind in ("f32", "f16"):
        return np.frombuffer(data, "<f4" if kind == "f32" else "<f2").astype(np.float32).reshape(shape)
    return oracle.decode(np.frombuffer(data, np.uint8).reshape(shape[0], -1), kind)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("outtype", [*QUANTIZED, "f16", "f32"])
def test_levels_survive(tmp_path: Path, tensors: dict[str, np.ndarray], version: int, outtype: str) -> None:
    """What the file holds is what the GGUF file holds, up to the rounding of scales that f16 cannot hold."""
    files.write(tmp_path / "old.bin", SHAPE, tensors, tokens(), outtype, version, 192)
    result = fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf")
    assert result.outputs[0].type == outtype
    found = gguf_tensors(tmp_path / "new.gguf")
    old_type = {1: V1_TYPES, 2: V2_TYPES, 3: {}}[version].get(outtype, outtype)
    exact = version == 3 or outtype in ("q5_0", "q5_1", "q4_0", "f16", "f32")
    for name, values in expected_tensors(tensors, SHAPE).items():
        kind, shape, data = found[name]
        assert kind == (outtype if values.ndim == 2 else "f32")
        if values.ndim == 1 or outtype in ("f16", "f32"):
            np.testing.assert_array_equal(decode(kind, shape, data), values.astype("<f2" if kind == "f16" else "<f4"))
            continue
        raw = np.frombuffer(blocks.encode(values, outtype, version), np.uint8).reshape(shape[0], -1)
        want = oracle.decode(raw, old_type)
        if exact:
            np.testing.assert_array_equal(decode(kind, shape, data), want)
        else:
            assert np.abs(decode(kind, shape, data) - want).max() <= 2**-10 * np.abs(want).max()
    rounded = [note for note in result.notes if "were rounded from 32 to 16 bits" in note]
    assert bool(rounded) is not exact


@pytest.mark.parametrize("outtype", ["q5_0", "q5_1", "q4_0"])
def test_version_1_of_bf16_weights_gives_the_file_of_version_3(
    tmp_path: Path, tensors: dict[str, np.ndarray], outtype: str
) -> None:
    """Bar q4_0, whose levels were rounded differently."""
    for version in (1, 2, 3):
        files.write(tmp_path / "old.bin", SHAPE, tensors, tokens(), outtype, version, 192)
        fastconv.convert(tmp_path / "old.bin", tmp_path / f"{version}.gguf", rms_eps=1e-6)
    one, two, three = ((tmp_path / f"{version}.gguf").read_bytes() for version in (1, 2, 3))
    assert two == three
    assert (one == three) is (outtype != "q4_0")


@pytest.mark.parametrize("outtype", ["f16", "q4_0", "q5_1"])
@pytest.mark.parametrize(("container", "n_parts"), [("ggml", 1), ("ggmf", 1), ("ggmf", 2)])
def test_older_containers_and_parts(
    tmp_path: Path, tensors: dict[str, np.ndarray], container: str, n_parts: int, outtype: str
) -> None:
    old = tmp_path / "ggml-model.bin"
    write_old(old, container, tensors, outtype, n_parts, scored=container != "ggml")
    (tmp_path / "tokenizer.model").write_bytes(spm_model(SHAPE.n_vocab))
    fastconv.convert(old, tmp_path / "new.gguf", vocab_dir=tmp_path, n_ctx=2048, rms_eps=1e-6, rope_base=1e4)
    files.write(tmp_path / "v1.bin", SHAPE, tensors, tokens(), outtype, 1, 192)
    fastconv.convert(tmp_path / "v1.bin", tmp_path / "v1.gguf", vocab_dir=tmp_path, rms_eps=1e-6)
    assert gguf_tensors(tmp_path / "new.gguf") == gguf_tensors(tmp_path / "v1.gguf")


@pytest.mark.parametrize("source_version", [1, 2, 3])
@pytest.mark.parametrize("target_version", [1, 2, 3])
@pytest.mark.parametrize("outtype", ["q5_0", "q5_1", "f16"])
def test_one_version_to_another(
    tmp_path: Path, tensors: dict[str, np.ndarray], source_version: int, target_version: int, outtype: str
) -> None:
    files.write(tmp_path / "old.bin", SHAPE, tensors, tokens(), outtype, source_version, 192)
    to = f"ggjt-v{target_version}"
    fastconv.convert(tmp_path / "old.bin", tmp_path / "new.bin", to=to, pure=True)
    files.write(tmp_path / "want.bin", SHAPE, tensors, tokens(), outtype, target_version, 192)
    assert (tmp_path / "new.bin").read_bytes() == (tmp_path / "want.bin").read_bytes()


def test_the_metadata_is_that_of_the_hugging_face_model(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    write_hf(tmp_path / "old", SHAPE, tensors=tensors)
    files.write(tmp_path / "old.bin", SHAPE, tensors, tokens(), "f16", 1, 192)
    fastconv.convert(tmp_path / "old", tmp_path / "hf.gguf", outtype="f16")
    result = fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf", rms_eps=1e-6, n_ctx=2048)
    assert result.notes == ("assumed, as the file does not say: rope base 10000 (--rope-base sets it)",)
    hf, new = (GgufFile(tmp_path / name) for name in ("hf.gguf", "new.gguf"))
    assert new.keys[-3:] == [
        (f"tokenizer.ggml.{role}_token_id", "uint32", i) for i, role in ((1, "bos"), (2, "eos"), (0, "unknown"))
    ]
    assert new.keys[:-3] == hf.keys  # whose tokenizer does not say it
    assert gguf_tensors(tmp_path / "new.gguf") == gguf_tensors(tmp_path / "hf.gguf")


@pytest.mark.parametrize(
    ("version", "outtype", "eps"), [(1, "q4_0", 1e-6), (2, "q4_0", 1e-6), (1, "f16", 5e-6), (3, "q4_0", 5e-6)]
)
def test_what_is_assumed_is_said(
    tmp_path: Path, tensors: dict[str, np.ndarray], version: int, outtype: str, eps: float
) -> None:
    files.write(tmp_path / "old.bin", SHAPE, tensors, tokens(), outtype, version, 192)
    result = fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf")
    assert f"norm epsilon {eps:g} (--rms-eps sets it" in result.notes[0]
    keys = {key: value for key, _, value in GgufFile(tmp_path / "new.gguf").keys}
    assert keys["llama.attention.layer_norm_rms_epsilon"] == np.float32(eps)
    fastconv.convert(
        tmp_path / "old.bin", tmp_path / "given.gguf", rms_eps=1e-5, n_ctx=4096, rope_base=1e6, outtype="q8_0"
    )
    keys = {key: value for key, _, value in GgufFile(tmp_path / "given.gguf").keys}
    assert keys["llama.attention.layer_norm_rms_epsilon"] == np.float32(1e-5)
    assert (keys["llama.context_length"], keys["llama.rope.freq_base"]) == (4096, 1e6)


def test_one_token_fewer_than_stated(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    """GPT4All's files: the embedding has the row, the vocabulary lacks the token."""
    files.write(tmp_path / "old.bin", SHAPE, tensors, tokens()[:-1], "f16", 1, 192)
    fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf")
    keys = {key: value for key, _, value in GgufFile(tmp_path / "new.gguf").keys}
    assert (keys["tokenizer.ggml.tokens"][-1], keys["tokenizer.ggml.token_type"][-1]) == ("[PAD319]", 5)
    assert len(keys["tokenizer.ggml.scores"]) == SHAPE.n_vocab


def test_added_tokens_stay_as_they_are_spelled(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    spelled = [*tokens()[:-2], (b"<|im end|>", -1000.0), (b"", 0.0)]
    files.write(tmp_path / "old.bin", SHAPE, tensors, spelled, "f16", 1, 192)
    fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf")
    keys = {key: value for key, _, value in GgufFile(tmp_path / "new.gguf").keys}
    assert keys["tokenizer.ggml.tokens"][-2:] == ["<|im end|>", ""]
    assert keys["tokenizer.ggml.token_type"][-2:] == [4, 3]


def test_k_quants_are_copied(tmp_path: Path) -> None:
    shape = LlamaShape(n_embd=256, n_ff=768, n_head_kv=4)
    write_hf(tmp_path / "m", shape)
    fastconv.convert(tmp_path / "m", tmp_path / "old.bin", to="ggjt-v3", outtype="q6_k", pure=True)
    fastconv.convert(tmp_path / "m", tmp_path / "direct.gguf", outtype="q6_k", pure=True)
    result = fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf")
    found, want = gguf_tensors(tmp_path / "new.gguf"), gguf_tensors(tmp_path / "direct.gguf")
    assert {name: row for name, row in found.items() if row[0] == "q6_k"} == {
        name: row for name, row in want.items() if row[0] == "q6_k"
    }
    assert result.outputs[0].type == "q6_k"
    assert len(result.notes) == 1


def test_grouped_heads_follow_from_shapes(tmp_path: Path) -> None:
    tensors = random_tensors(GROUPED)
    files.write(tmp_path / "old.bin", GROUPED, tensors, tokens(), "q8_0", 3, 192)
    fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf", outtype="f32")
    keys = {key: value for key, _, value in GgufFile(tmp_path / "new.gguf").keys}
    assert (keys["llama.attention.head_count"], keys["llama.attention.head_count_kv"]) == (4, 2)
    for name, values in expected_tensors(tensors, GROUPED).items():
        assert np.abs(decoded(tmp_path / "new.gguf")[name] - values).max() < 1e-3, name


def test_other_types_are_decoded_and_quantized_anew(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    files.write(tmp_path / "old.bin", SHAPE, tensors, tokens(), "q8_0", 1, 192)
    result = fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf", outtype="q4_1", pure=True)
    assert "quantized anew (16 of q8_0_v1): quality is lost" in "".join(result.notes)
    found = gguf_tensors(tmp_path / "new.gguf")
    for name, values in expected_tensors(tensors, SHAPE).items():
        if values.ndim == 2:
            raw = np.frombuffer(blocks.encode(values, "q8_0", 1), np.uint8).reshape(len(values), -1)
            assert found[name][2] == ggml.quantize(oracle.decode(raw, "q8_0_v1"), "q4_1").tobytes(), name


@pytest.mark.parametrize(("type_name", "code", "size"), [("q4_2", 4, 10), ("q4_3", 5, 12)])
def test_the_types_of_april_2023(
    tmp_path: Path,
    tensors: dict[str, np.ndarray],
    type_name: str,
    code: int,
    size: int,
) -> None:
    files.write(tmp_path / "old.bin", SHAPE, tensors, tokens(), "f32", 1, 192)
    rng = np.random.default_rng(5)
    ordered = files.in_file_order(tensors, SHAPE)
    stored: dict[str, np.ndarray] = {}
    out = (tmp_path / "old.bin").read_bytes()
    start = out.index(struct.pack("<3I", 2, len("tok_embeddings.weight"), 0))
    out = out[:start]
    for name, values in ordered.items():
        kind = code if values.ndim == 2 else 0
        out += struct.pack("<3I", values.ndim, len(name), kind)
        out += struct.pack(f"<{values.ndim}I", *values.shape[::-1]) + name.encode()
        out += bytes(-len(out) % 32)
        if values.ndim == 1:
            out += values.astype("<f4").tobytes()
            continue
        raw = rng.integers(0, 256, (values.size // 16, size), dtype=np.uint8)
        scales = rng.uniform(0.001, 0.01, (len(raw), 1 if code == 4 else 2)).astype("<f2")
        raw[:, : 2 * scales.shape[1]] = scales.view(np.uint8)
        stored[name] = raw.reshape(len(values), -1)
        out += raw.tobytes()
    (tmp_path / "old.bin").write_bytes(out)
    result = fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf")
    today = {"q4_2": "q4_0", "q4_3": "q4_1"}[type_name]
    assert result.outputs[0].type == today
    assert f"(16 of {type_name}): quality is lost" in "".join(result.notes)
    found = gguf_tensors(tmp_path / "new.gguf")
    want = ggml.quantize(oracle.decode(stored["layers.1.feed_forward.w1.weight"], type_name), today).tobytes()
    assert found["blk.1.ffn_gate.weight"][0] == today
    assert found["blk.1.ffn_gate.weight"][2] == want


@pytest.mark.parametrize("outtype", ["q4_0", "q4_1"])
@pytest.mark.parametrize("n_parts", [1, 2])
def test_the_rows_of_march_2023(
    tmp_path: Path, tensors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, outtype: str, n_parts: int
) -> None:
    """All scales of a row, then all its levels; in parts too, whose columns are joined."""
    wide = {name: np.tile(values, (1,) * (values.ndim - 1) + (8,)) for name, values in tensors.items()}
    shape = LlamaShape(n_embd=512, n_ff=1536, n_head_kv=4)
    wide = {name: np.resize(wide[name], dims) for name, dims in shape.tensor_shapes().items()}

    def planar(values: np.ndarray, stored: str, version: int) -> bytes:
        if stored == "f32":
            return plain(values, stored, version)
        return b"".join(planar_row(row, stored) for row in values)

    plain = blocks.encode
    monkeypatch.setattr(blocks, "encode", planar)
    write_old(tmp_path / "old.bin", "ggml", wide, outtype, n_parts, scored=False, shape=shape)
    monkeypatch.undo()
    (tmp_path / "tokenizer.model").write_bytes(spm_model(shape.n_vocab))
    result = fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf", vocab_dir=tmp_path, outtype="f32")
    assert not any("quality" in note for note in result.notes)
    found = gguf_tensors(tmp_path / "new.gguf")
    for name, values in expected_tensors(wide, shape).items():
        want = values
        if values.ndim == 2:
            parts = [values]
            if n_parts > 1 and name.split(".")[-2] in ("token_embd", "attn_output", "ffn_down"):
                parts = np.split(values, n_parts, axis=1)
            want = np.hstack([stored_planar(np.ascontiguousarray(part), outtype) for part in parts])
        assert found[name][2] == want.astype("<f4").tobytes(), name
    kept = fastconv.convert(tmp_path / "old.bin", tmp_path / "kept.gguf", vocab_dir=tmp_path)
    assert kept.outputs[0].type == outtype
    assert f"16 of {outtype}_planar" in "".join(kept.notes)


def planar_row(row: np.ndarray, outtype: str) -> bytes:
    """As ggml did: amax / 7, or the range in 15 steps; levels in pairs."""
    x = row.reshape(-1, 32)
    if outtype == "q4_0":
        heads = [np.abs(x).max(axis=1) / np.float32(7)]
        q = np.rint(x / heads[0][:, None]) + 8
    else:
        heads = [x.min(axis=1), (x.max(axis=1) - x.min(axis=1)) / np.float32(15)]
        q = np.rint((x - heads[0][:, None]) / heads[1][:, None])
    q = q.astype(np.uint8)
    return b"".join(head.astype("<f4").tobytes() for head in heads) + (q[:, 0::2] | q[:, 1::2] << 4).tobytes()


def stored_planar(values: np.ndarray, outtype: str) -> np.ndarray:
    raw = np.stack([np.frombuffer(planar_row(row, outtype), np.uint8) for row in values])
    return oracle.decode(raw, f"{outtype}_planar")


def changed_header(path: Path, at: int, value: int) -> None:
    data = bytearray(path.read_bytes())
    data[8 + 4 * at : 12 + 4 * at] = struct.pack("<I", value)
    path.write_bytes(bytes(data))


N_EMBD, N_HEAD, N_LAYER = 1, 3, 4


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (N_HEAD, 0, "n_embd is not a multiple of n_head"),
        (N_EMBD, 0, "n_embd is not a multiple of n_head"),
        (N_HEAD, 3, "n_embd is not a multiple of n_head"),
        (N_HEAD, 64, "n_embd / n_head is not usable: found 1, expected an even number"),
        (N_EMBD, 4096, "layers.0.attention.wk.weight: holds no whole heads"),
        (N_LAYER, 1, "layers.1.attention.wq.weight: is not a tensor of this architecture"),
        (N_LAYER, 3, "layers.2.attention.wq.weight: is missing"),
    ],
)
def test_headers_that_contradict_the_tensors(
    tmp_path: Path, tensors: dict[str, np.ndarray], field: int, value: int, message: str
) -> None:
    files.write(tmp_path / "old.bin", SHAPE, tensors, tokens(), "f16", 1, 192)
    changed_header(tmp_path / "old.bin", field, value)
    with pytest.raises(FastconvError, match=message):
        fastconv.convert(tmp_path / "old.bin", tmp_path / "new.gguf")


def test_vocabularies_that_cannot_be_used(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    write_old(tmp_path / "ggml.bin", "ggml", tensors, "f16", scored=False)
    with pytest.raises(FastconvError, match=r"tokens without scores.*--vocab-dir"):
        fastconv.convert(tmp_path / "ggml.bin", tmp_path / "new.gguf")
    pairs = [(text, -float(i)) for i, (text, _) in enumerate(tokens())]
    files.write(tmp_path / "pairs.bin", SHAPE, tensors, pairs, "f16", 1, 192)
    with pytest.raises(FastconvError, match=r"byte pairs without its merges.*--vocab-dir"):
        fastconv.convert(tmp_path / "pairs.bin", tmp_path / "new.gguf")
    many = LlamaShape(n_embd=64, n_ff=192, n_head_kv=4, n_vocab=321)
    files.write(tmp_path / "many.bin", many, tensors, tokens(321), "f16", 1, 192)
    with pytest.raises(FastconvError, match="holds more tokens than its embedding has rows: found 321, expected 320"):
        fastconv.convert(tmp_path / "many.bin", tmp_path / "new.gguf")


@pytest.mark.parametrize(("to", "outtype"), [("ggjt-v1", "f16"), ("ggjt-v2", "q4_1"), ("ggjt-v3", "q4_0")])
def test_gguf_files_give_the_same_file_as_the_hugging_face_model(tmp_path: Path, to: str, outtype: str) -> None:
    shape = LlamaShape(n_embd=64, n_ff=192, n_head_kv=2 if to == "ggjt-v3" else 4, extra={"multiple_of": 192})
    write_hf(tmp_path / "m", shape)
    fastconv.convert(tmp_path / "m", tmp_path / "f16.gguf", outtype="bf16")
    fastconv.convert(tmp_path / "m", tmp_path / "direct.bin", to=to, outtype=outtype)
    fastconv.convert(tmp_path / "f16.gguf", tmp_path / "through.bin", to=to, outtype=outtype)
    assert (tmp_path / "through.bin").read_bytes() == (tmp_path / "direct.bin").read_bytes()


def test_auto_keeps_the_blocks_of_a_gguf_file(tmp_path: Path) -> None:
    write_hf(tmp_path / "m", SHAPE)
    fastconv.convert(tmp_path / "m", tmp_path / "q.gguf", outtype="q5_1", pure=True)
    result = fastconv.convert(tmp_path / "q.gguf", tmp_path / "v1.bin", to="ggjt-v1")
    assert result.outputs[0].type == "q5_1"
    fastconv.convert(tmp_path / "m", tmp_path / "direct.bin", to="ggjt-v1", outtype="q5_1")
    found, want = (files.read(tmp_path / name) for name in ("v1.bin", "direct.bin"))
    assert found.tensors == want.tensors
