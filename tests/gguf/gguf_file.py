"""A second, independent reading of GGUF for tests: header bytes, key-values and tensor records, via gguf's reader."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TYPE_NAMES = {
    0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32", 7: "bool", 8: "string",
    9: "array", 10: "uint64", 11: "int64", 12: "float64",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    name: str
    dims: tuple[int, ...]
    type: int
    offset: int


class GgufFile:
    """header: all bytes up to the end of the last tensor record. keys: (key, type, value) in file order."""

    def __init__(self, source: Path | bytes) -> None:
        self._data = source if isinstance(source, bytes) else source.read_bytes()
        self._at = 0
        assert self._take(4) == b"GGUF"
        version, n_tensors, n_keys = self._unpack("IQQ")
        assert version == 3
        self.keys: list[tuple[str, str, Any]] = []
        for _ in range(n_keys):
            key = self._string()
            (code,) = self._unpack("I")
            kind, value = self._value(code)
            self.keys.append((key, kind, value))
        self.tensors: list[Tensor] = []
        for _ in range(n_tensors):
            name = self._string()
            (n_dims,) = self._unpack("I")
            dims = self._unpack(f"{n_dims}Q")
            self.tensors.append(Tensor(name, dims, *self._unpack("IQ")))
        self.header = self._data[: self._at]
        self.size = len(self._data)

    def described(self) -> list[list[Any]]:
        """Key-values fit for a JSON file: long arrays as their length and digest."""
        rows = []
        for key, kind, value in self.keys:
            if isinstance(value, list) and len(value) > 16:
                digest = hashlib.sha256(repr(value).encode()).hexdigest()
                rows.append([key, kind, {"length": len(value), "first": value[:4], "sha256": digest}])
            else:
                rows.append([key, kind, value])
        return rows

    def _take(self, n: int) -> bytes:
        self._at += n
        assert self._at <= len(self._data)
        return self._data[self._at - n : self._at]

    def _unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        return self._take(length).decode("utf-8", "surrogateescape")

    def _value(self, code: int) -> tuple[str, Any]:
        if code == 8:
            return "string", self._string()
        if code == 9:
            element, length = self._unpack("IQ")
            if element == 8:
                return "array of string", [self._string() for _ in range(length)]
            return f"array of {_TYPE_NAMES[element]}", list(self._unpack(f"{length}{_SCALARS[element]}"))
        (value,) = self._unpack(_SCALARS[code])
        return _TYPE_NAMES[code], value
