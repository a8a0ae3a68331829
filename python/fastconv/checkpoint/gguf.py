"""Reads GGUF files, versions 2 and 3: key-values and tensor records, checked. Knows nothing of what the keys mean.

Source: https://github.com/ggml-org/ggml, docs/gguf.md, and gguf.cpp for what its reader refuses.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from typing import Any

from fastconv.checkpoint import marks
from fastconv.checkpoint.cursor import Cursor, KeptCursor
from fastconv.checkpoint.foreign_types import block_of, checked_bytes, ggml_type_name
from fastconv.checkpoint.gguf_array import ARRAY, BOOL, SCALARS, STRING, value_of
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.limits import MAX_HEADER_MEMORY, check_tensor_count, text_width
from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError

MAX_HEADER_BYTES = 1 << 25  # twice that of 262,144 tokens and 514,906 merges, the largest vocabulary there is
MAX_STRING_BYTES = 1 << 24
MAX_ARRAY_ITEMS = 1 << 22  # eight times the largest list of merges
MAX_KEYS = 1 << 14
MAX_KEY_BYTES = (1 << 16) - 1
MAX_NAME_BYTES = 64
MAX_DIMS = 4
MAX_ARRAY_DEPTH = 4
DEFAULT_ALIGNMENT = 32

# What Python needs for a key short of its text, for a tensor.
_KEY_MEMORY, _TENSOR_MEMORY = 1024, 768


def read_gguf(storage: FileStorage) -> tuple[dict[str, LazyTensor], dict[str, Any], dict[str, memoryview]]:
    """The tensors, in the order of their records, the key-values, and these as they are stored: type, then value.

    Shapes have the output dimension first, as everywhere but in the file. Arrays are GgufArrays. Strings that are not
    UTF-8 stay bytes; a tensor of an unknown type is kept under the type name `ggml_type_N`. Raises CheckpointError.
    """
    cursor = KeptCursor(storage, limit=MAX_HEADER_BYTES, memory=MAX_HEADER_MEMORY)
    if cursor.take(4) != marks.GGUF:
        raise CheckpointError("is no GGUF file", file=storage.path)
    version = cursor.u32()
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = "big-endian GGUF is not supported" if swapped in (1, 2, 3) else "GGUF version is not supported"
        raise CheckpointError(what, file=storage.path, found=version, expected="2 or 3, little-endian")
    n_tensors, n_values = cursor.u64(), cursor.u64()
    encoded = _key_values(cursor, n_values)
    metadata = {key: value_of(stored) for key, stored in encoded.items()}
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(
            "general.alignment is no power of two", file=storage.path, found=str(alignment)[:80], expected="32"
        )
    cursor.check_count(n_tensors, 8 + 4 + 4 + 8, "tensors")
    check_tensor_count(storage.path, n_tensors)
    cursor.spend(n_tensors * _TENSOR_MEMORY)
    rest = Cursor(storage, limit=MAX_HEADER_BYTES)
    rest.position = cursor.position
    records = [_record(rest) for _ in range(n_tensors)]
    data_start = -(-rest.position // alignment) * alignment
    return _tensors(storage, records, data_start, alignment), metadata, encoded


def check_split(paths: Sequence[str], headers: Sequence[dict[str, Any]], n_tensors: int) -> None:
    """Whether the files are what llama-gguf-split made of one model: all of it, in order.

    headers: their key-values. n_tensors: of all files together. Raises CheckpointError.
    """
    for number, (path, values) in enumerate(zip(paths, headers, strict=True)):
        count = values.get("split.count", 1)
        if count != len(paths) or (count > 1 and values.get("split.no") != number):
            raise CheckpointError(
                "is another shard than its name says" if len(paths) > 1 else "is one shard of several",
                file=path,
                found=f"split.no {values.get('split.no')} of split.count {count}",
                expected=f"{number} of {len(paths)}",
                fix="name the shards X-00001-of-0000N.gguf, as llama-gguf-split does",
            )
    stated = headers[0].get("split.tensors.count", n_tensors)
    if stated != n_tensors:
        raise CheckpointError("the shards do not hold all tensors", file=paths[0], found=n_tensors, expected=stated)


def _key_values(cursor: KeptCursor, n_values: int) -> dict[str, memoryview]:
    """Every value as stored, once all of them are checked."""
    path = cursor.storage.path
    cursor.check_count(n_values, 8 + 4 + 1, "key-values")
    if n_values > MAX_KEYS:
        raise CheckpointError("holds too many key-values", file=path, found=n_values, expected=f"at most {MAX_KEYS}")
    places: dict[str, tuple[int, int]] = {}
    for _ in range(n_values):
        key = _key(cursor)
        if key in places:
            raise CheckpointError(f"key {key} appears twice", file=path)
        start = cursor.position
        _check_value(cursor, cursor.u32(), key, 0)
        places[key] = start, cursor.position
    kept = cursor.kept()
    return {key: kept[start:stop] for key, (start, stop) in places.items()}


def _key(cursor: KeptCursor) -> str:
    length = cursor.u64()
    if not 0 < length <= MAX_KEY_BYTES:
        raise CheckpointError(
            "key has an impossible length",
            file=cursor.storage.path,
            found=f"{length} bytes",
            expected=f"1 to {MAX_KEY_BYTES}",
        )
    raw = cursor.take(length)
    cursor.spend(_KEY_MEMORY + length * text_width(raw))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("key is not UTF-8", file=cursor.storage.path) from None


def _check_value(cursor: KeptCursor, value_type: int, key: str, depth: int) -> None:
    """Goes past a value. Raises CheckpointError where it breaks a rule."""
    if value_type in SCALARS:
        _check_numbers(cursor, value_type, struct.calcsize(f"<{SCALARS[value_type]}"), key)
    elif value_type == STRING:
        raw = cursor.take(cursor.checked_length(cursor.u64(), MAX_STRING_BYTES))
        width = text_width(raw)
        cursor.spend(len(raw) * (1, 3, 6)[width >> 1])  # decoded into a narrower text first, which is then widened
    elif value_type == ARRAY:
        _check_array(cursor, key, depth)
    else:
        raise CheckpointError(f"{key} is of an unknown value type", file=cursor.storage.path, found=value_type)


def _check_array(cursor: KeptCursor, key: str, depth: int) -> None:
    if depth == MAX_ARRAY_DEPTH:
        raise CheckpointError(f"{key} is nested too deeply", file=cursor.storage.path, expected=MAX_ARRAY_DEPTH)
    item_type, count = cursor.u32(), cursor.u64()
    if count > MAX_ARRAY_ITEMS:
        raise CheckpointError(
            f"{key} is too long",
            file=cursor.storage.path,
            found=f"{count} items",
            expected=f"at most {MAX_ARRAY_ITEMS}",
        )
    if item_type in SCALARS:
        size = count * struct.calcsize(f"<{SCALARS[item_type]}")
        cursor.check_count(size, 1, "bytes in an array")
        _check_numbers(cursor, item_type, size, key)
    elif item_type == STRING:
        cursor.skip_strings(count, MAX_STRING_BYTES)
    else:
        cursor.check_count(count, 4 + 8, "arrays")
        for _ in range(count):
            _check_value(cursor, item_type, key, depth + 1)


def _check_numbers(cursor: KeptCursor, item_type: int, size: int, key: str) -> None:
    if item_type != BOOL:
        cursor.skip(size)
    elif cursor.take(size).translate(None, b"\0\1"):
        raise CheckpointError(f"{key} holds a boolean that is neither 0 nor 1", file=cursor.storage.path)


def _record(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape (output dimension first), ggml type, offset into the data."""
    path = cursor.storage.path
    length = cursor.u64()
    if not 0 < length <= MAX_NAME_BYTES:
        raise CheckpointError(
            "tensor name has an impossible length", file=path, found=length, expected=f"1 to {MAX_NAME_BYTES} bytes"
        )
    try:
        name = cursor.take(length).decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("tensor name is not UTF-8", file=path) from None
    n_dims = cursor.u32()
    if n_dims > MAX_DIMS:
        raise CheckpointError(
            "has too many dimensions", file=path, tensor=name, found=n_dims, expected=f"at most {MAX_DIMS}"
        )
    shape = cursor.unpack(struct.Struct(f"<{n_dims}Q"))[::-1]
    if math.prod(n for n in shape if n) >= 1 << 63 or any(n >= 1 << 63 for n in shape):
        raise CheckpointError("shape is too large", file=path, tensor=name, found=shape)
    ggml_type, offset = cursor.u32(), cursor.u64()
    return name, shape, ggml_type, offset


def _tensors(
    storage: FileStorage, records: list[tuple[str, tuple[int, ...], int, int]], data_start: int, alignment: int
) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    spans: list[tuple[int, int, str]] = []
    names: dict[int, tuple[str, tuple[int, int] | None]] = {}
    for name, shape, ggml_type, offset in records:
        if name in tensors:
            raise CheckpointError("appears twice", file=storage.path, tensor=name)
        if ggml_type not in names:
            type_name = ggml_type_name(ggml_type)
            names[ggml_type] = type_name, block_of(type_name)
        type_name, block = names[ggml_type]
        if offset % alignment:
            raise CheckpointError(
                "is not aligned", file=storage.path, tensor=name, found=f"offset {offset}", expected=alignment
            )
        size = 0
        if block is not None:
            size = checked_bytes(shape, type_name, block, file=storage.path, tensor=name)
        storage.check_tensor(name, data_start + offset + size)
        spans.append((offset, offset + size, name))
        tensors[name] = LazyTensor.stored(name, type_name, shape, storage, data_start + offset)
    spans.sort()
    for (_, end, before), (begin, _, name) in itertools.pairwise(spans):
        if begin < end:
            raise CheckpointError(f"overlaps {before}", file=storage.path, tensor=name, found=begin, expected=end)
    return tensors
