"""Values of GGUF's key-value section as bytes; arrays are written in bulk. Knows no keys.

Source of the layout: ggml, docs/gguf.md (version 3, little-endian). Imports gguf, which takes a moment.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from gguf.constants import GGUFValueType

from fastconv.checkpoint.gguf_array import SCALARS


def encode_string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def encode_value(value_type: GGUFValueType, value: Any) -> bytes:
    """A typed scalar, string or array (of strings, booleans, integers as int32, or floats as float32).

    Raises TypeError or ValueError if the value is not of the type.
    """
    tag = struct.pack("<I", value_type)
    if value_type == GGUFValueType.STRING:
        if not isinstance(value, str | bytes):
            raise TypeError(f"{value!r} is not text")
        return tag + encode_string(value)
    if value_type == GGUFValueType.ARRAY:
        return tag + _array(value)
    try:
        return tag + struct.pack(f"<{SCALARS[value_type]}", value)
    except struct.error as error:
        raise ValueError(f"{value!r} is not a {value_type.name.lower()} ({error})") from None


def _array(values: Sequence[Any]) -> bytes:
    found = set(map(type, values))
    try:
        return _typed_array(found, values)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"an array holds a value out of range ({error})") from None


def _typed_array(found: set[type], values: Sequence[Any]) -> bytes:
    if found == {bytes} or found == {str}:
        return _array_head(GGUFValueType.STRING, values) + _strings(values)
    if found == {bool}:
        return _array_head(GGUFValueType.BOOL, values) + bytes(values)
    if found == {float}:
        return _array_head(GGUFValueType.FLOAT32, values) + struct.pack(f"<{len(values)}f", *values)
    if bool not in found and all(issubclass(element, int) for element in found):
        return _array_head(GGUFValueType.INT32, values) + struct.pack(f"<{len(values)}i", *values)
    raise TypeError(f"an array cannot hold {', '.join(sorted(element.__name__ for element in found))}")


def _array_head(element_type: GGUFValueType, values: Sequence[Any]) -> bytes:
    return struct.pack("<IQ", element_type, len(values))


def _strings(values: Sequence[str] | Sequence[bytes]) -> bytes:
    encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
    heads = {size: struct.pack("<Q", size) for size in set(map(len, encoded))}
    return b"".join([heads[len(text)] + text for text in encoded])
