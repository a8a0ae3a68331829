"""Writes the formats by hand, well or badly formed, and reads lazy tensors back with NumPy alone."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.checkpoint import LazyTensor


def safetensors_bytes(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """header: JSON-able, or the raw bytes to use."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


class ZipBuilder:
    """A zip archive, member by member; every header field can be overridden."""

    def __init__(self) -> None:
        self.body = b""
        self.directory = b""
        self.n_members = 0

    def add(
        self,
        name: str | bytes,
        data: bytes,
        *,
        flags: int = 0,
        method: int = 0,
        local: Mapping[str, Any] | None = None,
        central: Mapping[str, Any] | None = None,
        local_extra: bytes = b"",
        central_extra: bytes = b"",
    ) -> ZipBuilder:
        name = name.encode() if isinstance(name, str) else name
        fields = {
            "signature": b"PK\x03\x04",
            "name": name,
            "flags": flags,
            "method": method,
            "crc": zlib.crc32(data),
            "packed": len(data),
            "full": len(data),
        }
        one = fields | dict(local or {})
        two = fields | {"signature": b"PK\x01\x02", "offset": len(self.body), "disk": 0} | dict(central or {})
        self.body += struct.pack(
            "<4s5H3I2H",
            *(one["signature"], 20, one["flags"], one["method"], 0, 0, one["crc"], one["packed"], one["full"]),
            *(len(one["name"]), len(local_extra)),
        )
        self.body += one["name"] + local_extra + data
        self.directory += struct.pack(
            "<4s6H3I5H2I",
            *(two["signature"], 20, 20, two["flags"], two["method"], 0, 0, two["crc"], two["packed"], two["full"]),
            *(len(two["name"]), len(central_extra), 0, two["disk"], 0, 0, two["offset"]),
        )
        self.directory += two["name"] + central_extra
        self.n_members += 1
        return self

    def bytes(self, *, zip64: bool = False, **end: int) -> bytes:
        offset = len(self.body)
        values = {"n": self.n_members, "size": len(self.directory), "offset": offset, "comment": 0, "disk": 0} | end
        tail = b""
        if zip64:
            fields = (44, 45, 45, 0, 0, values["n"], values["n"], values["size"], values["offset"])
            tail = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", *fields)
            tail += struct.pack("<4sIQI", b"PK\x06\x07", 0, end.get("locator", offset + len(self.directory)), 1)
            values |= {"n": 0xFFFF, "size": 0xFFFFFFFF, "offset": 0xFFFFFFFF}
        tail += struct.pack(
            "<4s4H2IH",
            *(b"PK\x05\x06", values["disk"], 0, values["n"], values["n"]),
            *(values["size"], values["offset"], values["comment"]),
        )
        return self.body + self.directory + tail


def torch_zip_bytes(pickle: bytes, storages: Mapping[str, bytes] | None = None, **extra: bytes) -> bytes:
    """A checkpoint as torch.save lays it out, with this data.pkl."""
    archive = ZipBuilder().add("archive/data.pkl", pickle)
    for name, data in extra.items():
        archive.add(f"archive/{name}", data)
    for key, data in (storages or {}).items():
        archive.add(f"archive/data/{key}", data)
    return archive.bytes()


class PickleBuilder:
    """A pickle of protocol 2, opcode by opcode."""

    def __init__(self) -> None:
        self.code = b"\x80\x02"

    def op(self, raw: bytes) -> PickleBuilder:
        self.code += raw
        return self

    def text(self, value: str) -> PickleBuilder:
        raw = value.encode()
        return self.op(b"X" + struct.pack("<I", len(raw)) + raw)

    def integer(self, value: int) -> PickleBuilder:
        raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
        return self.op(b"\x8a" + bytes([len(raw)]) + raw)

    def global_(self, module: str, name: str) -> PickleBuilder:
        return self.op(b"c" + module.encode() + b"\n" + name.encode() + b"\n")

    def tuple_of(self, *numbers: int) -> PickleBuilder:
        self.op(b"(")
        for number in numbers:
            self.integer(number)
        return self.op(b"t")

    def storage(self, cls: str, key: str, n_elements: int, module: str = "torch") -> PickleBuilder:
        self.op(b"(").text("storage").global_(module, cls).text(key).text("cpu").integer(n_elements)
        return self.op(b"tQ")

    def tensor(
        self,
        key: str,
        n_elements: int,
        shape: Sequence[int],
        strides: Sequence[int],
        offset: int = 0,
        cls: str = "FloatStorage",
    ) -> PickleBuilder:
        self.global_("torch._utils", "_rebuild_tensor_v2").op(b"(").storage(cls, key, n_elements).integer(offset)
        self.tuple_of(*shape).tuple_of(*strides).op(b"\x89")
        return self.global_("collections", "OrderedDict").op(b")RtR")

    def state_dict(self, name: str, value: PickleBuilder) -> bytes:
        """{name: value} and the end."""
        return self.op(b"}").text(name).op(value.code[2:]).op(b"s.").code


def gguf_string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(key: str | bytes, value_type: int, raw: bytes) -> bytes:
    return gguf_string(key) + struct.pack("<I", value_type) + raw


def gguf_record(name: str | bytes, dims: Sequence[int], ggml_type: int, offset: int) -> bytes:
    """dims: as in the file, the contiguous one first."""
    return gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, ggml_type, offset)


def gguf_bytes(
    values: Sequence[bytes] = (),
    records: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_values: int | None = None,
    n_records: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(records) if n_records is None else n_records,
        len(values) if n_values is None else n_values,
    )
    head += b"".join(values) + b"".join(records)
    return head + b"\0" * (-len(head) % alignment) + data


def ggjt_bytes(
    tensors: Sequence[tuple[str, Sequence[int], int, bytes]],
    *,
    magic: bytes = b"tjgg",
    version: int | None = 3,
    n_vocab: int = 2,
    tokens: Sequence[bytes] = (b"a", b"\xff"),
    scores: bool = True,
    aligned: bool = True,
    n_embd: int = 32,
    ftype: int = 0,
) -> bytes:
    """tensors: name, dims (the contiguous one first), type id, data."""
    out = magic + (b"" if version is None else struct.pack("<I", version))
    out += struct.pack("<7I", n_vocab, n_embd, 256, 4, 1, 8, ftype)
    for token in tokens:
        out += struct.pack("<I", len(token)) + token + (struct.pack("<f", -1.5) if scores else b"")
    for name, dims, type_id, data in tensors:
        out += struct.pack(f"<3I{len(dims)}I", len(dims), len(name), type_id, *dims) + name.encode()
        out += b"\0" * (-len(out) % 32 if aligned else 0) + data
    return out


_NUMPY = {
    "f64": "<f8",
    "f32": "<f4",
    "f16": "<f2",
    "bf16": "bfloat16",
    "f8_e4m3": "float8_e4m3fn",
    "f8_e5m2": "float8_e5m2",
    "i8": "<i1",
    "i16": "<i2",
    "i32": "<i4",
    "i64": "<i8",
    "u8": "<u1",
    "bool": "?",
}


def gathered(tensor: LazyTensor) -> np.ndarray:
    """What a lazy tensor of element types says it holds, float64, in its own shape."""
    import ml_dtypes  # noqa: F401  # names the types that NumPy lacks

    n_rows = max(piece.row + piece.n_rows for piece in tensor.pieces)
    n_cols = max(piece.col + piece.n_cols for piece in tensor.pieces)
    matrix = np.full((n_rows, n_cols), np.nan)
    for piece in tensor.pieces:
        raw = getattr(piece.storage, "array", None)
        raw = Path(piece.storage.path).read_bytes() if raw is None else raw.tobytes()
        dtype = np.dtype(_NUMPY[piece.type])
        # Every element on its own, so that one outside the file is an error.
        for i in range(piece.n_rows):
            for j in range(piece.n_cols):
                at = piece.offset + (i * piece.row_stride + j * piece.col_stride) * dtype.itemsize
                [value] = np.frombuffer(raw, dtype, 1, at)
                matrix[piece.row + i, piece.col + j] = value
    rows = matrix if tensor.rows is None else matrix[tensor.rows]
    return rows.reshape(tensor.shape)
