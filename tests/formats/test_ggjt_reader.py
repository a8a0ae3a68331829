"""The reader of GGML, GGMF and GGJT files: every version, and one malformed file per rule."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from fastconv.checkpoint import open_checkpoint
from fastconv.errors import CheckpointError
from tests.formats.format_builders import gathered, ggjt_bytes

EMBEDDING = "tok_embeddings.weight"
CONTAINERS = {
    "ggml": {"magic": b"lmgg", "version": None, "scores": False, "aligned": False},
    "ggmf": {"magic": b"fmgg", "version": 1, "aligned": False},
    "ggjt v1": {"version": 1},
    "ggjt v2": {"version": 2},
    "ggjt v3": {"version": 3},
}
V1_BLOCKS = {2: ("q4_0_v1", 20), 3: ("q4_1_v1", 24), 6: ("q5_0_v1", 22), 7: ("q5_1_v1", 24), 8: ("q8_0_v1", 36)}
V2_BLOCKS = {2: ("q4_0_v2", 20), 3: ("q4_1_v2", 24), 6: ("q5_0", 22), 7: ("q5_1", 24), 8: ("q8_0_v1", 36)}
V3_BLOCKS = {2: ("q4_0", 18), 3: ("q4_1", 20), 6: ("q5_0", 22), 7: ("q5_1", 24), 8: ("q8_0", 34)}
BLOCKS = {"ggml": V1_BLOCKS, "ggmf": V1_BLOCKS, "ggjt v1": V1_BLOCKS, "ggjt v2": V2_BLOCKS, "ggjt v3": V3_BLOCKS}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container(tmp_path: Path, container: str) -> None:
    values = np.arange(64, dtype="<f4").reshape(2, 32)
    tensors = [
        (EMBEDDING, [32, 2], 0, values.tobytes()),
        ("norm.weight", [32], 1, values[1].astype("<f2").tobytes()),
        *((f"b{code}", [32, 3], code, bytes(3 * size)) for code, (_, size) in BLOCKS[container].items()),
        ("end", [32], 0, values[0].tobytes()),
    ]
    file = tmp_path / "ggml-model.bin"
    file.write_bytes(ggjt_bytes(tensors, **CONTAINERS[container]))
    opened = open_checkpoint(file)
    assert opened.format == "ggjt"
    assert opened.metadata["container"] == container[:4]
    assert opened.metadata["version"] == (CONTAINERS[container]["version"] or 0)
    assert opened.metadata["tokens"] == [b"a", b"\xff"]
    assert opened.metadata.get("scores") == (None if container == "ggml" else [-1.5, -1.5])
    assert list(opened.tensors) == [name for name, *_ in tensors]
    np.testing.assert_array_equal(gathered(opened.tensors[EMBEDDING]), values)
    np.testing.assert_array_equal(gathered(opened.tensors["norm.weight"]), values[1])
    np.testing.assert_array_equal(gathered(opened.tensors["end"]), values[0])
    for code, (type_name, size) in BLOCKS[container].items():
        assert opened.tensors[f"b{code}"].dtype == type_name
        assert opened.tensors[f"b{code}"].n_bytes == 3 * size
        assert opened.tensors[f"b{code}"].pieces[0].offset % 32 == 0 or not container.startswith("ggjt")


def test_k_quants_and_v1_s_short_lived_types(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    embedding = (EMBEDDING, [32, 1], 0, bytes(128))
    file.write_bytes(ggjt_bytes([embedding, ("k", [256], 12, bytes(144)), ("q", [256], 14, bytes(210))]))
    assert [t.dtype for t in open_checkpoint(file).tensors.values()] == ["f32", "q4_k", "q6_k"]
    file.write_bytes(ggjt_bytes([embedding, ("a", [16], 4, bytes(10)), ("b", [16], 5, bytes(12))], version=1))
    assert [t.dtype for t in open_checkpoint(file).tensors.values()] == ["f32", "q4_2", "q4_3"]
    file.write_bytes(ggjt_bytes([embedding, ("a", [32], 6, bytes(36))], version=1, ftype=7))
    assert [t.dtype for t in open_checkpoint(file).tensors.values()] == ["f32", "q8_0_v1"]


@pytest.mark.parametrize("planar", [False, True])
def test_planar_rows_of_the_first_days(tmp_path: Path, planar: bool) -> None:
    rng = np.random.default_rng(5)
    scales = rng.uniform(1e-3, 1e-1, 32).astype("<f4")
    quants = rng.integers(0, 256, (32, 16), dtype=np.uint8)
    if planar:
        row = scales.tobytes() + quants.tobytes()
    else:
        row = b"".join(scale.tobytes() + block.tobytes() for scale, block in zip(scales, quants, strict=True))
    file = tmp_path / "model.bin"
    tensors = [(EMBEDDING, [32, 1], 0, bytes(128)), ("w", [1024, 1], 2, row)]
    file.write_bytes(ggjt_bytes(tensors, **CONTAINERS["ggml"]))
    assert open_checkpoint(file).tensors["w"].dtype == ("q4_0_planar" if planar else "q4_0_v1")


def test_a_vocabulary_alone_and_gpt4alls_missing_token(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(ggjt_bytes([]))
    assert open_checkpoint(file).tensors == {}
    file.write_bytes(ggjt_bytes([(EMBEDDING, [32, 3], 0, bytes(384))], n_vocab=3, **CONTAINERS["ggmf"]))
    opened = open_checkpoint(file)
    assert len(opened.metadata["tokens"]) == 2
    assert opened.tensors[EMBEDDING].shape == (3, 32)


def test_parts(tmp_path: Path) -> None:
    for number, name in enumerate(("model.bin", "model.bin.1")):
        values = np.full(32, number, "<f4").tobytes()
        raw = ggjt_bytes([(EMBEDDING, [16, 2], 0, values), ("norm.weight", [32], 0, values)], **CONTAINERS["ggmf"])
        (tmp_path / name).write_bytes(raw)
    opened = open_checkpoint(tmp_path / "model.bin")
    assert opened.files == (str(tmp_path / "model.bin"), str(tmp_path / "model.bin.1"))
    assert [gathered(part[EMBEDDING])[0, 0] for part in opened.parts] == [0, 1]
    (tmp_path / "model.bin.1").write_bytes(ggjt_bytes([(EMBEDDING, [16, 2], 0, values)], **CONTAINERS["ggmf"]))
    with pytest.raises(CheckpointError, match=r"tensor norm\.weight: is not in every part"):
        open_checkpoint(tmp_path / "model.bin")
    (tmp_path / "model.bin.1").write_bytes(raw.replace(b"\x20\0\0\0", b"\x40\0\0\0", 1))
    with pytest.raises(CheckpointError, match="header differs from the first part's"):
        open_checkpoint(tmp_path / "model.bin")
    (tmp_path / "model.bin.1").unlink()
    with pytest.raises(CheckpointError, match=r"part model\.bin\.1 is missing"):
        open_checkpoint(tmp_path / "model.bin")


GOOD = (EMBEDDING, [32, 2], 0, bytes(256))
MALFORMED = {
    "LoRA": (b"algg" + bytes(40), "is a LoRA adapter (ggla), no model"),
    "session": (b"nsgg" + bytes(40), "is a saved session of llama.cpp, no model"),
    "ggjt version 4": (ggjt_bytes([GOOD], version=4), "ggjt version is unknown: found 4, expected 1 or 2 or 3"),
    "ggmf version 2": (ggjt_bytes([GOOD], magic=b"fmgg", version=2), "ggmf version is unknown: found 2"),
    "2^32 tokens": (ggjt_bytes([], n_vocab=2**32 - 1), "states more tokens than fit"),
    "token of 2^31 bytes": (
        ggjt_bytes([], tokens=()) + struct.pack("<I", 2**31) + bytes(40),
        "token 0 is too long",
    ),
    "not llama": (ggjt_bytes([("transformer.wte", [32, 2], 0, bytes(256))]), "is no LLaMA model"),
    "no dimensions": (ggjt_bytes([(EMBEDDING, [], 0, bytes(4))]), "no tensor record at offset"),
    "3 dimensions": (ggjt_bytes([(EMBEDDING, [32, 1, 1], 0, bytes(128))]), "no tensor record at offset"),
    "nameless": (ggjt_bytes([GOOD, ("", [32], 0, bytes(128))]), "no tensor record at offset"),
    "name too long": (ggjt_bytes([("x" * 257, [32], 0, bytes(128))]), "a name of 257 bytes"),
    "twice": (ggjt_bytes([GOOD, GOOD]), f"tensor {EMBEDDING}: appears twice"),
    "unknown type": (ggjt_bytes([(EMBEDDING, [32], 99, bytes(99))]), "type is unknown to ggjt version 3: found 99"),
    "type of later": (ggjt_bytes([(EMBEDDING, [32], 30, bytes(99))]), "type is unknown to ggjt version 3: found 30"),
    "type of a newer version": (
        ggjt_bytes([(EMBEDDING, [256], 12, bytes(144))], version=2),
        "type is unknown to ggjt version 2: found 12",
    ),
    "type of an older version": (ggjt_bytes([(EMBEDDING, [16], 4, bytes(10))]), "type is unknown to ggjt version 3"),
    "rows do not divide": (ggjt_bytes([(EMBEDDING, [33], 2, bytes(36))]), "rows do not divide into q4_0 blocks"),
    "past the end": (ggjt_bytes([(EMBEDDING, [32, 2], 0, bytes(255))]), "data runs past the end of the file"),
    "2^32 x 2^32": (
        ggjt_bytes([(EMBEDDING, [2**32 - 1, 2**32 - 1], 0, b"")]),
        "data runs past the end of the file",
    ),
    "bytes after the last": (ggjt_bytes([GOOD]) + b"\0" * 3, "is truncated"),
    "zeros after the last": (ggjt_bytes([GOOD]) + b"\0" * 64, "no tensor record at offset"),
    "empty file of a kind": (b"tjgg", "is truncated"),
    "header cut": (ggjt_bytes([GOOD])[:30], "is truncated"),
    "ggjt version 0": (ggjt_bytes([GOOD], version=0), "ggjt version is unknown: found 0"),
    "ggjt version of 2^32 - 1": (ggjt_bytes([GOOD], version=2**32 - 1), "ggjt version is unknown: found 4294967295"),
    "ggmf version 0": (ggjt_bytes([GOOD], magic=b"fmgg", version=0), "ggmf version is unknown: found 0"),
    "one token more than there is": (ggjt_bytes([], n_vocab=3), "states more tokens than fit"),
    "more tokens than any vocabulary": (
        b"lmgg" + struct.pack("<7I", 1 << 20, 32, 256, 4, 1, 8, 0) + bytes(4 << 20),
        "holds too many tokens: found 1048576",
    ),
    "vocabulary of 20 MB": (
        ggjt_bytes([], n_vocab=400, tokens=[bytes(1 << 16)] * 400),
        "header is too long: expected at most 16777216 bytes",
    ),
    "token of 65537 bytes": (ggjt_bytes([], n_vocab=1, tokens=[bytes(65537)]), "token 0 is too long: found 65537"),
    "token past the end": (ggjt_bytes([], n_vocab=1, tokens=()) + struct.pack("<If", 60, 0), "is truncated"),
    "score missing": (ggjt_bytes([], n_vocab=2)[:-4], "states more tokens than fit|is truncated"),
    "2^32 - 1 dimensions": (
        ggjt_bytes([]) + struct.pack("<3I", 2**32 - 1, 4, 0) + bytes(64),
        "no tensor record at offset",
    ),
    "name of 2^32 - 1 bytes": (ggjt_bytes([]) + struct.pack("<4I", 1, 2**32 - 1, 0, 32), "no tensor record at offset"),
    "name past the end": (ggjt_bytes([]) + struct.pack("<4I", 1, 99, 0, 32) + b"x", "is truncated"),
    "name not UTF-8": (
        ggjt_bytes([GOOD]) + struct.pack("<4I", 1, 2, 0, 32) + b"\xff\xfe" + bytes(160),
        "its name is not UTF-8",
    ),
    "type of 2^32 - 1": (ggjt_bytes([(EMBEDDING, [32], 2**32 - 1, bytes(99))]), "type is unknown to ggjt version 3"),
    "rows do not divide by 256": (ggjt_bytes([(EMBEDDING, [32], 14, bytes(210))]), "rows do not divide into q6_k"),
    "last tensor cut by a byte": (ggjt_bytes([GOOD, ("w", [32], 0, bytes(127))]), "tensor w: data runs past the end"),
    "one row of 2^32 - 1": (ggjt_bytes([(EMBEDDING, [2**32 - 1], 0, b"")]), "data runs past the end of the file"),
    "the padding missing": (ggjt_bytes([(EMBEDDING, [32, 1], 0, bytes(128))], aligned=False), "past the end"),
    "embedding of no width, then nothing": (ggjt_bytes([("w", [0, 0], 0, b"")]), "is no LLaMA model"),
    "width does not divide": (
        ggjt_bytes([(EMBEDDING, [24, 2], 0, bytes(192))], **CONTAINERS["ggml"]),
        "width does not divide n_embd: found 24, expected 32",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    raw, message = MALFORMED[case]
    file = tmp_path / "model.bin"
    file.write_bytes(raw)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(file)
    assert any(part in str(raised.value) for part in message.split("|"))
    assert "\n" not in str(raised.value)


def test_every_prefix_is_refused(tmp_path: Path) -> None:
    whole = ggjt_bytes([GOOD])
    vocabulary_end = len(ggjt_bytes([]))
    file = tmp_path / "model.bin"
    for length in range(len(whole)):
        if length != vocabulary_end:  # which is a vocabulary alone
            file.write_bytes(whole[:length])
            with pytest.raises(CheckpointError):
                open_checkpoint(file)
