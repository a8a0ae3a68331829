"""The safetensors reader against the format's own library, and one malformed file per rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fastconv.checkpoint import open_checkpoint
from fastconv.errors import CheckpointError
from tests.formats.format_builders import entry, gathered, safetensors_bytes

DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8_e4m3": torch.float8_e4m3fn,
    "f8_e5m2": torch.float8_e5m2,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "bool": torch.bool,
}
DECODED = ("f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2")
SHAPES = [(), (7,), (3, 5), (2, 3, 4), (0,), (4, 0), (1, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_formats_own_reader(tmp_path: Path, dtype: str) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {f"t{i}": (torch.randn(s, generator=generator) * 9).to(DTYPES[dtype]) for i, s in enumerate(SHAPES)}
    file = tmp_path / "model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    opened = open_checkpoint(file)
    truth = load_file(file)
    assert opened.format == "safetensors"
    assert opened.metadata == {"format": "pt"}
    assert list(opened.tensors) == sorted(truth)
    for name, tensor in opened.tensors.items():
        assert tensor.dtype == dtype
        assert tensor.shape == tuple(truth[name].shape)
        assert tensor.n_bytes == truth[name].numel() * truth[name].element_size()
        if tensor.n_elements:
            np.testing.assert_array_equal(gathered(tensor), truth[name].to(torch.float64).numpy())
        if tensor.n_elements and dtype in DECODED:
            np.testing.assert_array_equal(tensor.numpy(), truth[name].to(torch.float32).numpy())


@pytest.mark.parametrize(
    ("dtype", "shape", "n_bytes"),
    [("U16", [3], 6), ("C64", [2], 16), ("F8_E8M0", [4], 4), ("F4", [4], 2), ("I8", [4], 4), ("BOOL", [2], 2)],
)
def test_types_it_does_not_convert_are_kept(tmp_path: Path, dtype: str, shape: list[int], n_bytes: int) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors_bytes({"x": entry(dtype, shape, 0, n_bytes)}, bytes(n_bytes)))
    [tensor] = open_checkpoint(file).tensors.values()
    assert (tensor.dtype, tensor.n_bytes) == (dtype.lower(), n_bytes)
    with pytest.raises(CheckpointError, match=f"tensor x: has a type that cannot be decoded: found {dtype.lower()}"):
        tensor.numpy()


F32 = entry("F32", [2], 0, 8)
MALFORMED = {
    "empty file": (b"", "is no checkpoint: found an empty file"),
    "shorter than a length": (b"\1\0\0", "is no checkpoint"),
    "header past the end": (safetensors_bytes({"x": F32}, length=4000), "is truncated: found"),
    "header above the cap": (safetensors_bytes({"x": F32}, length=100_000_001), "header is too long"),
    "length of 2^64 - 1": (safetensors_bytes({"x": F32}, length=2**64 - 1), "header is too long"),
    "header not an object": (safetensors_bytes(b'[{"x":1}]'), "header does not begin with '{'"),
    "space before the object": (safetensors_bytes(b' {"x":1}'), "header does not begin with '{'"),
    "not JSON": (safetensors_bytes(b'{"x":'), "header is not valid JSON"),
    "two objects": (safetensors_bytes(b"{}{}"), "header is not valid JSON"),
    "not UTF-8": (safetensors_bytes(b'{"\xff":1}'), "header is not valid JSON"),
    "lone surrogate": (
        safetensors_bytes(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "header is not valid JSON",
    ),
    "nested without end": (safetensors_bytes(b'{"x":' + b"[" * 100_000), "header is not valid JSON"),
    "a number of 10,000 digits": (safetensors_bytes(b'{"x":' + b"9" * 10_000 + b"}"), "header is not valid JSON"),
    "duplicate tensor": (
        safetensors_bytes(b'{"x":' + json.dumps(F32).encode() + b',"x":' + json.dumps(F32).encode() + b"}", bytes(8)),
        "duplicate key 'x'",
    ),
    "duplicate field": (
        safetensors_bytes(b'{"x":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "duplicate key 'dtype'",
    ),
    "metadata not strings": (safetensors_bytes({"__metadata__": {"a": 1}, "x": F32}, bytes(8)), "__metadata__ is not"),
    "metadata a list": (safetensors_bytes({"__metadata__": [], "x": F32}, bytes(8)), "__metadata__ is not"),
    "entry not an object": (safetensors_bytes({"x": 3}), "tensor x: header entry is malformed: found int"),
    "field missing": (safetensors_bytes({"x": {"dtype": "F32", "shape": [2]}}), "header entry is malformed"),
    "field too many": (safetensors_bytes({"x": F32 | {"y": 1}}, bytes(8)), "header entry is malformed"),
    "unknown dtype": (safetensors_bytes({"x": entry("F7", [2], 0, 8)}, bytes(8)), "unknown dtype: found 'F7'"),
    "dtype of torch alone": (safetensors_bytes({"x": entry("C128", [1], 0, 16)}, bytes(16)), "unknown dtype"),
    "dtype not a string": (safetensors_bytes({"x": F32 | {"dtype": ["F32"]}}, bytes(8)), "unknown dtype"),
    "negative dimension": (safetensors_bytes({"x": F32 | {"shape": [-2]}}, bytes(8)), "shape is not a list of non-neg"),
    "dimension true": (
        safetensors_bytes({"x": F32 | {"shape": [2, True]}}, bytes(8)),
        "shape is not a list of non-neg",
    ),
    "dimension 2.0": (safetensors_bytes({"x": F32 | {"shape": [2.0]}}, bytes(8)), "shape is not a list of non-neg"),
    "dimension of 2^63": (safetensors_bytes({"x": F32 | {"shape": [2**63, 0]}}, bytes(8)), "shape is not a list of n"),
    "65 dimensions": (safetensors_bytes({"x": F32 | {"shape": [1] * 64 + [2]}}, bytes(8)), "shape is not a list of no"),
    "shape a number": (safetensors_bytes({"x": F32 | {"shape": 2}}, bytes(8)), "shape is not a list of non-neg"),
    "product above 2^63": (safetensors_bytes({"x": F32 | {"shape": [2**62, 2]}}, bytes(8)), "shape is too large"),
    "empty, product above 2^63": (
        safetensors_bytes({"x": entry("F32", [2**62, 4, 0], 0, 0)}),
        "shape is too large",
    ),
    "one offset": (safetensors_bytes({"x": F32 | {"data_offsets": [0]}}, bytes(8)), "data_offsets are not two non-neg"),
    "negative offset": (safetensors_bytes({"x": entry("F32", [2], -8, 0)}, bytes(8)), "data_offsets are not two non-n"),
    "end before begin": (safetensors_bytes({"x": entry("F32", [2], 8, 0)}, bytes(8)), "size disagrees with dtype and"),
    "size too small": (
        safetensors_bytes({"x": entry("F32", [2], 0, 4)}, bytes(4)),
        "found 4 bytes, expected 8 for F32",
    ),
    "half a byte": (safetensors_bytes({"x": entry("F4", [3], 0, 2)}, bytes(2)), "size disagrees with dtype and shape"),
    "past the end": (safetensors_bytes({"x": F32}, bytes(7)), "data runs past the end of the file"),
    "far past the end": (
        safetensors_bytes({"x": entry("F32", [2], 1 << 40, (1 << 40) + 8), "y": entry("F32", [2], 8, 16)}, bytes(16)),
        "tensor x: data runs past the end of the file: found 16 bytes of data, expected at least 1099511627784",
    ),
    "overlap": (
        safetensors_bytes({"x": F32, "y": entry("F32", [2], 4, 12)}, bytes(12)),
        "tensor y: overlaps the tensor before it: found begin 4, expected 8",
    ),
    "same bytes twice": (safetensors_bytes({"x": F32, "y": F32}, bytes(8)), "overlaps the tensor before it"),
    "hole": (
        safetensors_bytes({"x": F32, "y": entry("F32", [1], 12, 16)}, bytes(16)),
        "tensor y: is preceded by bytes of no tensor",
    ),
    "hole at the start": (safetensors_bytes({"x": entry("F32", [1], 4, 8)}, bytes(8)), "is preceded by bytes of no"),
    "bytes after the last": (safetensors_bytes({"x": F32}, bytes(9)), "bytes after the last tensor: found 9 bytes"),
    "no tensors": (safetensors_bytes({}), "holds no tensors"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    raw, message = MALFORMED[case]
    file = tmp_path / "model.safetensors"
    file.write_bytes(raw)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(file)
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)


def test_every_prefix_is_refused(tmp_path: Path) -> None:
    whole = safetensors_bytes({"x": F32, "y": entry("F16", [3], 8, 14)}, bytes(14))
    file = tmp_path / "model.safetensors"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(file)


def test_header_may_be_padded_and_out_of_order(tmp_path: Path) -> None:
    header = {"b": entry("F32", [1], 0, 4), "a": entry("F32", [1], 4, 8), "e": entry("F32", [0], 4, 4)}
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors_bytes(json.dumps(header).encode() + b"   ", np.array([1, 2], "<f4").tobytes()))
    tensors = open_checkpoint(file).tensors
    assert list(tensors) == ["a", "b", "e"]
    assert gathered(tensors["a"]) == 2
    assert gathered(tensors["b"]) == 1
    assert tensors["e"].n_elements == 0
