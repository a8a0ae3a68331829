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
from fastconv.checkpoint.cursor import Cursor
from fastconv.checkpoint.foreign_types import block_of, ggml_type_name
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.limits import check_tensor_count
from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError

MAX_HEADER_BYTES = 1 << 25
MAX_STRING_BYTES = 1 << 24
MAX_ARRAY_ITEMS = 1 << 22  # eight times the largest list of merges
# All values as Python holds them. A vocabulary of 262,144 tokens and 514,906 merges, the largest there is, needs 80 MB.
MAX_VALUE_MEMORY = 128 << 20
MAX_KEYS = 1 << 14
MAX_KEY_BYTES = (1 << 16) - 1
MAX_NAME_BYTES = 64
MAX_DIMS = 4
MAX_ARRAY_DEPTH = 4
DEFAULT_ALIGNMENT = 32

# struct codes by value type; 7, 8 and 9 are bool, string and array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
# What Python needs for an item of an array (small integers are there already), a string short of its text, a key.
_ITEM_MEMORY, _SMALL_ITEM_MEMORY, _STRING_MEMORY, _KEY_MEMORY = 48, 16, 72, 512


def read_gguf(storage: FileStorage) -> tuple[dict[str, LazyTensor], dict[str, Any], dict[str, bytes]]:
    """The tensors, in the order of their records, the key-values, and these as they are stored: type, then value.

    Shapes have the output dimension first, as everywhere but in the file. Strings that are not UTF-8 stay bytes; a
    tensor of an unknown type is kept under the type name `ggml_type_N`. Raises CheckpointError.
    """
    cursor = Cursor(storage, limit=MAX_HEADER_BYTES, memory=MAX_VALUE_MEMORY)
    if cursor.take(4) != marks.GGUF:
        raise CheckpointError("is no GGUF file", file=storage.path)
    version = cursor.u32()
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = "big-endian GGUF is not supported" if swapped in (1, 2, 3) else "GGUF version is not supported"
        raise CheckpointError(what, file=storage.path, found=version, expected="2 or 3, little-endian")
    n_tensors, n_values = cursor.u64(), cursor.u64()
    cursor.check_count(n_values, 8 + 4 + 1, "key-values")
    if n_values > MAX_KEYS:
        raise CheckpointError(
            "holds too many key-values", file=storage.path, found=n_values, expected=f"at most {MAX_KEYS}"
        )
    metadata: dict[str, Any] = {}
    encoded: dict[str, bytes] = {}
    for _ in range(n_values):
        key = _key(cursor)
        if key in metadata:
            raise CheckpointError(f"key {key} appears twice", file=storage.path)
        cursor.spend(_KEY_MEMORY)
        start = cursor.position
        metadata[key] = _value(cursor, cursor.u32(), key, 0)
        encoded[key] = storage.read(start, cursor.position - start)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(
            "general.alignment is no power of two", file=storage.path, found=str(alignment)[:80], expected="32"
        )
    cursor.check_count(n_tensors, 8 + 4 + 4 + 8, "tensors")
    check_tensor_count(storage.path, n_tensors)
    records = [_record(cursor) for _ in range(n_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
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


def _key(cursor: Cursor) -> str:
    length = cursor.u64()
    if not 0 < length <= MAX_KEY_BYTES:
        raise CheckpointError(
            "key has an impossible length",
            file=cursor.storage.path,
            found=f"{length} bytes",
            expected=f"1 to {MAX_KEY_BYTES}",
        )
    try:
        return cursor.take(length).decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("key is not UTF-8", file=cursor.storage.path) from None


def _value(cursor: Cursor, value_type: int, key: str, depth: int) -> Any:
    if value_type in _SCALARS:
        [value] = cursor.unpack(struct.Struct("<" + _SCALARS[value_type]))
        return _booleans(cursor, [value], key)[0] if value_type == _BOOL else value
    if value_type == _STRING:
        raw = cursor.take(cursor.checked_length(cursor.u64(), MAX_STRING_BYTES))
        cursor.spend(_text_memory(len(raw)))
        return _text(raw)
    if value_type != _ARRAY:
        raise CheckpointError(f"{key} is of an unknown value type", file=cursor.storage.path, found=value_type)
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
    if item_type in _SCALARS:
        items = struct.Struct(f"<{count}{_SCALARS[item_type]}")
        cursor.check_count(items.size, 1, "bytes in an array")
        cursor.spend(count * (_SMALL_ITEM_MEMORY if item_type in (0, _BOOL) else _ITEM_MEMORY))
        values = list(cursor.unpack(items))
        return _booleans(cursor, values, key) if item_type == _BOOL else values
    if item_type == _STRING:
        cursor.spend(count * _STRING_MEMORY)
        start = cursor.position
        texts = [_text(raw) for raw in cursor.strings(count, MAX_STRING_BYTES)]
        cursor.spend(_text_memory(cursor.position - start - 8 * count))
        return texts
    cursor.check_count(count, 4 + 8, "arrays")
    cursor.spend(count * _STRING_MEMORY)
    return [_value(cursor, item_type, key, depth + 1) for _ in range(count)]


def _text_memory(n_bytes: int) -> int:
    """Of all characters of a text the widest decides how many bytes each takes."""
    return 4 * n_bytes


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _booleans(cursor: Cursor, values: list[int], key: str) -> list[bool]:
    if any(value > 1 for value in values):
        raise CheckpointError(f"{key} holds a boolean that is neither 0 nor 1", file=cursor.storage.path)
    return [bool(value) for value in values]


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
            n_cols = shape[-1] if shape else 1
            if n_cols % block[0]:
                raise CheckpointError(
                    f"rows do not divide into {type_name} blocks",
                    file=storage.path,
                    tensor=name,
                    found=f"{n_cols} columns",
                    expected=f"a multiple of {block[0]}",
                )
            size = math.prod(shape) // block[0] * block[1]
        if data_start + offset + size > storage.size:
            raise CheckpointError(
                "data runs past the end of the file",
                file=storage.path,
                tensor=name,
                found=f"{storage.size} bytes",
                expected=f"at least {data_start + offset + size}",
                fix="download or copy it again",
            )
        spans.append((offset, offset + size, name))
        tensors[name] = LazyTensor.stored(name, type_name, shape, storage, data_start + offset)
    spans.sort()
    for (_, end, before), (begin, _, name) in itertools.pairwise(spans):
        if begin < end:
            raise CheckpointError(f"overlaps {before}", file=storage.path, tensor=name, found=begin, expected=end)
    return tensors
