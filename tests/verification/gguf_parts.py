"""A GGUF file taken apart, to be put together again with a defect; no reader under test is involved."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from tests.gguf.gguf_file import GgufFile

_BLOCKS = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 8: (32, 34), 12: (256, 144), 14: (256, 210)}


@dataclass
class Part:
    """A tensor. dims: innermost first. shift: added to its offset when it is written."""

    name: str
    dims: tuple[int, ...]
    type: int
    data: bytearray
    shift: int = 0


@dataclass
class GgufParts:
    """keys: name -> type and value as stored. tail: bytes after the last tensor's padding."""

    keys: dict[str, bytes]
    parts: list[Part]
    tail: bytes = b""
    alignment: int = 32
    order: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> GgufParts:
        data = path.read_bytes()
        header = GgufFile(data)
        start = -(-len(header.header) // 32) * 32
        parts = []
        for tensor in header.tensors:
            elements = 1
            for n in tensor.dims:
                elements *= n
            block, size = _BLOCKS[tensor.type]
            begin = start + tensor.offset
            raw = bytearray(data[begin : begin + elements // block * size])
            parts.append(Part(tensor.name, tensor.dims, tensor.type, raw))
        return cls(_raw_keys(header.header, len(header.keys)), parts)

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def write(self, path: Path) -> Path:
        records, data = b"", bytearray()
        for part in self.parts:
            label = part.name.encode()
            records += struct.pack("<Q", len(label)) + label + struct.pack("<I", len(part.dims))
            records += struct.pack(f"<{len(part.dims)}QIQ", *part.dims, part.type, len(data) + part.shift)
            data += part.data + bytes(-len(part.data) % self.alignment)
        keys = b"".join(struct.pack("<Q", len(k.encode())) + k.encode() + raw for k, raw in self.keys.items())
        header = b"GGUF" + struct.pack("<IQQ", 3, len(self.parts), len(self.keys)) + keys + records
        path.write_bytes(header + bytes(-len(header) % self.alignment) + bytes(data) + self.tail)
        return path


def _raw_keys(header: bytes, count: int) -> dict[str, bytes]:
    """Key -> its bytes: found by walking once more, with the sizes of the format's value types."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def end_of(at: int, kind: int) -> int:
        if kind == 8:
            return at + 8 + int.from_bytes(header[at : at + 8], "little")
        if kind != 9:
            return at + sizes[kind]
        element, n = struct.unpack_from("<IQ", header, at)
        at += 12
        if element in sizes:
            return int(at + n * sizes[element])
        for _ in range(n):
            at = end_of(at, element)
        return at

    keys, at = {}, 24
    for _ in range(count):
        length = int.from_bytes(header[at : at + 8], "little")
        key = header[at + 8 : at + 8 + length].decode()
        begin = at + 8 + length
        at = end_of(begin + 4, int.from_bytes(header[begin : begin + 4], "little"))
        keys[key] = header[begin:at]
    return keys


def u32(value: int) -> bytes:
    return struct.pack("<II", 4, value)


def f32(value: float) -> bytes:
    return struct.pack("<If", 6, value)
