"""The GGUF reader against gguf's own writer and reader, and one malformed file per rule."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import gguf
import numpy as np
import pytest

from fastconv.checkpoint import open_checkpoint
from fastconv.errors import CheckpointError
from tests.formats.format_builders import gathered, gguf_bytes, gguf_record, gguf_string, gguf_value

Q = gguf.GGMLQuantizationType


def test_equals_ggufs_own_reader(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_uint32("a.u32", 7)
    writer.add_int64("a.i64", -7)
    writer.add_float32("a.f32", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "naïve ▁")
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.texts", ["x", "", "▁y"])
    writer.add_array("a.floats", [1.5, -2.5])
    writer.add_token_list([b"<s>", b"\xff\xfe"])
    rng = np.random.default_rng(1)
    floats = {"f32": rng.normal(size=(3, 5)).astype("<f4"), "f16": rng.normal(size=(2, 3, 4)).astype("<f2")}
    for name, values in floats.items():
        writer.add_tensor(name, values)
    for ggml_type in (Q.Q4_0, Q.Q8_0):
        blocks = gguf.quantize(rng.normal(size=(4, 64)).astype("<f4"), ggml_type)
        writer.add_tensor(ggml_type.name, blocks, raw_dtype=ggml_type)
    writer.add_tensor("k", rng.integers(0, 255, (2, 144), dtype=np.uint8), raw_dtype=Q.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = open_checkpoint(file)
    assert opened.format == "gguf"
    assert {key: value for key, value in opened.metadata.items() if key.startswith("a.")} == {
        "a.u32": 7,
        "a.i64": -7,
        "a.f32": 0.5,
        "a.bool": True,
        "a.text": "naïve ▁",
        "a.ints": [1, -2, 3],
        "a.texts": ["x", "", "▁y"],
        "a.floats": [1.5, -2.5],
    }
    assert opened.metadata["tokenizer.ggml.tokens"] == ["<s>", b"\xff\xfe"]
    truth = gguf.GGUFReader(file)
    assert list(opened.tensors) == [tensor.name for tensor in truth.tensors]
    for tensor in truth.tensors:
        mine = opened.tensors[tensor.name]
        assert mine.dtype == tensor.tensor_type.name.lower()
        assert mine.shape == tuple(tensor.shape.tolist()[::-1])
        assert mine.pieces[0].offset == tensor.data_offset
        assert mine.n_bytes == tensor.n_bytes
    for name, values in floats.items():
        np.testing.assert_array_equal(gathered(opened.tensors[name]), values)


def test_version_2_vocabulary_alone_and_unknown_type(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf_bytes([gguf_value("k", 4, b"\5\0\0\0")], version=2)[:-1])  # its padding may be absent
    opened = open_checkpoint(file)
    assert (opened.metadata, opened.tensors) == ({"k": 5}, {})
    file.write_bytes(gguf_bytes(records=[gguf_record("x", [3], 9999, 0)], data=bytes(5)))
    [tensor] = open_checkpoint(file).tensors.values()
    assert (tensor.dtype, tensor.shape, tensor.n_bytes) == ("ggml_type_9999", (3,), 0)
    with pytest.raises(CheckpointError, match="tensor x: has a type that cannot be decoded: found ggml_type_9999"):
        tensor.native()


def test_alignment_and_nested_arrays(tmp_path: Path) -> None:
    nested = struct.pack("<IQ", 9, 2) + struct.pack("<IQ", 4, 1) + b"\1\0\0\0" + struct.pack("<IQ", 8, 0)
    values = [gguf_value("general.alignment", 4, struct.pack("<I", 64)), gguf_value("n", 9, nested)]
    records = [gguf_record("y", [2], 0, 64), gguf_record("x", [4, 2], 1, 0)]
    data = np.arange(8, dtype="<f2").tobytes().ljust(64, b"\0") + np.array([8, 9], "<f4").tobytes()
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf_bytes(values, records, data, alignment=64))
    opened = open_checkpoint(file)
    assert opened.metadata["n"] == [[1], []]
    assert list(opened.tensors) == ["y", "x"]
    np.testing.assert_array_equal(gathered(opened.tensors["x"]), np.arange(8).reshape(2, 4))
    np.testing.assert_array_equal(gathered(opened.tensors["y"]), [8, 9])


def test_strings_across_the_window(tmp_path: Path) -> None:
    """Headers are read a megabyte at a time; here strings and a length lie across its end."""
    rng = np.random.default_rng(2)
    texts = ["x" * int(n) for n in rng.integers(0, 40, 70_000)] + ["y" * (3 << 20), "", "end"]
    raw = struct.pack("<IQ", 8, len(texts)) + b"".join(gguf_string(text) for text in texts)
    file = tmp_path / "model.gguf"
    for shift in range(9):
        file.write_bytes(gguf_bytes([gguf_value("k" * (shift + 1), 9, raw)]))
        assert open_checkpoint(file).metadata == {"k" * (shift + 1): texts}


ARRAYS = {
    "numbers": (4, b"".join(struct.pack("<I", i) for i in range(9)), list(range(9))),
    "booleans": (7, b"\0\1", [False, True]),
    "strings": (8, gguf_string("a") + gguf_string(b"\xff") + gguf_string(""), ["a", b"\xff", ""]),
    "arrays": (
        9,
        struct.pack("<IQH", 2, 1, 7) + struct.pack("<IQ", 8, 2) + gguf_string("b") + gguf_string("c"),
        [[7], ["b", "c"]],
    ),
    "nothing": (77, b"", []),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_are_as_lists(tmp_path: Path, case: str) -> None:
    item_type, raw, truth = ARRAYS[case]
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf_bytes([array(item_type, len(truth), raw)]))
    opened = open_checkpoint(file)
    found = opened.metadata["k"]
    assert isinstance(found, Sequence)
    assert len(found) == len(truth)
    assert list(found) == truth
    assert found.tolist() == truth
    assert found == truth
    assert found != [*truth, None]
    assert found != "text"
    assert [found[i] for i in range(-len(truth), len(truth))] == truth * 2
    assert found[::-2] == truth[::-2]
    for index in (len(truth), -len(truth) - 1):
        with pytest.raises(IndexError):
            found[index]
    for copy in (deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert (type(copy), copy) == (list, truth)
    assert repr(found) == ("[0, 1, 2, 3, 4, 5, 6, 7, ... 9 in all]" if len(truth) > 8 else repr(truth))
    assert bytes(opened.encoded["k"]) == struct.pack("<IIQ", 9, item_type, len(truth)) + raw


X = gguf_record("x", [8], 0, 0)
U32 = struct.pack("<I", 1)


def array(item_type: int, count: int, raw: bytes = b"") -> bytes:
    return gguf_value("k", 9, struct.pack("<IQ", item_type, count) + raw)


DEEP = b"".join(struct.pack("<IQ", 9, 1) for _ in range(40)) + struct.pack("<IQ", 4, 0)
MALFORMED = {
    "version 1": (gguf_bytes(version=1), "GGUF version is not supported: found 1"),
    "version 4": (gguf_bytes(version=4), "GGUF version is not supported: found 4"),
    "big-endian": (gguf_bytes(version=3 << 24), "big-endian GGUF is not supported"),
    "2^60 key-values": (gguf_bytes(n_values=2**60), "states more key-values than fit"),
    "one key-value too many": (gguf_bytes(n_values=1), "states more key-values than fit"),
    "2^60 tensors": (gguf_bytes(n_records=2**60), "states more tensors than fit"),
    "empty key": (gguf_bytes([gguf_value("", 4, U32)]), "key has an impossible length"),
    "key of 2^63 bytes": (
        gguf_bytes([struct.pack("<Q", 2**63) + bytes(40)]),
        "key has an impossible length",
    ),
    "key not UTF-8": (gguf_bytes([gguf_value(b"\xff", 4, U32)]), "key is not UTF-8"),
    "key twice": (gguf_bytes([gguf_value("k", 4, U32)] * 2), "key k appears twice"),
    "unknown value type": (gguf_bytes([gguf_value("k", 13, U32)]), "k is of an unknown value type: found 13"),
    "boolean 2": (gguf_bytes([gguf_value("k", 7, b"\2")]), "k holds a boolean that is neither 0 nor 1"),
    "string of 2^62 bytes": (
        gguf_bytes([gguf_value("k", 8, struct.pack("<Q", 2**62))]),
        "holds a string that is too long: found 4611686018427387904 bytes",
    ),
    "item of 2^62 bytes": (gguf_bytes([array(8, 1, struct.pack("<Q", 2**62))]), "holds a string that is too long"),
    "item past the end": (gguf_bytes([array(8, 1, struct.pack("<Q", 4000))]), "is truncated"),
    "string past the end": (gguf_bytes([gguf_value("k", 8, struct.pack("<Q", 4000))]), "is truncated"),
    "array of 2^62 items": (gguf_bytes([array(4, 2**62)]), "k is too long: found 4611686018427387904 items"),
    "array past the end": (gguf_bytes([array(10, 1 << 20)]), "states more bytes in an array than fit"),
    "strings past the end": (gguf_bytes([array(8, 1 << 20)]), "states more strings than fit"),
    "arrays past the end": (gguf_bytes([array(9, 1 << 20)]), "states more arrays than fit"),
    "array of unknown type": (gguf_bytes([array(77, 1, bytes(12))]), "k is of an unknown value type: found 77"),
    "array of arrays of arrays ...": (gguf_bytes([gguf_value("k", 9, DEEP)]), "k is nested too deeply"),
    "alignment 0": (
        gguf_bytes([gguf_value("general.alignment", 4, bytes(4))], [X], bytes(32)),
        "general.alignment is no power of two: found 0",
    ),
    "alignment 24": (
        gguf_bytes([gguf_value("general.alignment", 4, b"\x18\0\0\0")], [X], bytes(32)),
        "general.alignment is no power of two: found 24",
    ),
    "alignment a string": (
        gguf_bytes([gguf_value("general.alignment", 8, gguf_string("32"))], [X], bytes(32)),
        "general.alignment is no power of two",
    ),
    "nameless tensor": (gguf_bytes(records=[gguf_record("", [8], 0, 0)], data=bytes(32)), "tensor name has an impos"),
    "name of 65 bytes": (gguf_bytes(records=[gguf_record("x" * 65, [8], 0, 0)]), "tensor name has an impossible"),
    "name not UTF-8": (gguf_bytes(records=[gguf_record(b"\xff", [8], 0, 0)]), "tensor name is not UTF-8"),
    "tensor twice": (gguf_bytes(records=[X, X], data=bytes(64)), "tensor x: appears twice"),
    "5 dimensions": (gguf_bytes(records=[gguf_record("x", [1] * 5, 0, 0)]), "has too many dimensions: found 5"),
    "2^32 dimensions": (
        gguf_bytes(records=[gguf_string("x") + b"\xff" * 40]),
        "has too many dimensions",
    ),
    "product above 2^63": (gguf_bytes(records=[gguf_record("x", [2**40, 2**30], 0, 0)]), "shape is too large"),
    "rows do not divide": (
        gguf_bytes(records=[gguf_record("x", [33], 2, 0)], data=bytes(64)),
        "rows do not divide into q4_0 blocks: found 33 columns, expected a multiple of 32",
    ),
    "rows of a foreign type do not divide": (
        gguf_bytes(records=[gguf_record("x", [96], 12, 0)], data=bytes(64)),
        "rows do not divide into q4_k blocks",
    ),
    "unaligned": (gguf_bytes(records=[gguf_record("x", [2], 0, 8)], data=bytes(32)), "is not aligned: found offset 8"),
    "past the end": (gguf_bytes(records=[X], data=bytes(31)), "data runs past the end of the file"),
    "offset of 2^63": (gguf_bytes(records=[gguf_record("x", [8], 0, 2**63)]), "data runs past the end of the file"),
    "overlap": (
        gguf_bytes(records=[gguf_record("x", [16], 0, 0), gguf_record("y", [2], 0, 32)], data=bytes(64)),
        "tensor y: overlaps x",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    raw, message = MALFORMED[case]
    file = tmp_path / "model.gguf"
    file.write_bytes(raw)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(file)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_prefix_is_refused(tmp_path: Path) -> None:
    values = [gguf_value("k", 8, gguf_string("text")), array(8, 2, gguf_string("a") + gguf_string("b"))]
    values[1] = values[1].replace(b"k", b"l", 1)
    whole = gguf_bytes(values, [X], bytes(32))
    file = tmp_path / "model.gguf"
    file.write_bytes(whole)
    open_checkpoint(file)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(file)
