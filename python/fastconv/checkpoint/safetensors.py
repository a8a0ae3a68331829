"""Reads safetensors headers. Knows the format's rules, nothing of models; see docs/formats/safetensors.md."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from fastconv.checkpoint.foreign_types import ELEMENT_BITS
from fastconv.checkpoint.json_file import first_line, parse_json
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.limits import MAX_HEADER_MEMORY, check_json_memory, check_tensor_count
from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # source: safetensors, MAX_HEADER_SIZE
MAX_RANK = 64  # as in torch and NumPy
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_DTYPES = {name.upper(): name for name in ELEMENT_BITS if name != "c128"}


def read_safetensors(
    storage: FileStorage,
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The tensors, sorted by name, and __metadata__. Raises CheckpointError where the file breaks a rule of the format.

    Source: https://github.com/huggingface/safetensors, "Format", and `validate` in its tensor.rs.
    """
    header, data_start = _read_header(storage)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("__metadata__ is not a map of strings", file=storage.path)
    tensors: dict[str, LazyTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name in sorted(header):  # the order of every safetensors loader, so of files made with them
        dtype, shape, begin, end = _check_entry(storage, name, header.pop(name))
        spans.append((begin, end, name))
        tensors[name] = LazyTensor.stored(name, dtype, shape, storage, data_start + begin)
    _check_spans(storage, spans, storage.size - data_start)
    return tensors, metadata


def _read_header(storage: FileStorage) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(storage.read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            "header is too long",
            file=storage.path,
            found=f"{length} bytes",
            expected=f"at most {MAX_HEADER_BYTES}",
            fix="is this a safetensors file?",
        )
    raw = storage.read(8, length)
    if raw[:1] != b"{":
        raise CheckpointError("header does not begin with '{'", file=storage.path, found=repr(raw[:8]))
    check_json_memory(storage.path, raw, MAX_HEADER_MEMORY)
    try:
        header = parse_json(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"header is not valid JSON ({first_line(error)})", file=storage.path) from None
    check_tensor_count(storage.path, len(header))
    return header, 8 + length


def _check_entry(storage: FileStorage, name: str, entry: Any) -> tuple[str, list[int], int, int]:
    def refuse(what: str, found: object = None, expected: object = None) -> NoReturn:
        raise CheckpointError(what, file=storage.path, tensor=name, found=found, expected=expected)

    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        keys = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        refuse("header entry is malformed", keys, "dtype, shape and data_offsets")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        refuse("unknown dtype", _brief(entry["dtype"]), f"one of {', '.join(_DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_is_size, shape)):
        refuse("shape is not a list of non-negative integers", _brief(shape))
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        refuse("data_offsets are not two non-negative integers", _brief(offsets))
    begin, end = offsets
    if math.prod(n for n in shape if n) >= 1 << 63:
        refuse("shape is too large", shape)
    bits = math.prod(shape) * ELEMENT_BITS[dtype]
    if bits % 8 or end - begin != bits // 8:
        refuse(
            "size disagrees with dtype and shape",
            f"{end - begin} bytes",
            f"{bits / 8:g} for {entry['dtype']} {shape}",
        )
    return dtype, shape, begin, end


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _brief(value: Any) -> str:
    return repr(value)[:80]


def _check_spans(storage: FileStorage, spans: list[tuple[int, int, str]], data_bytes: int) -> None:
    """The tensors' bytes follow each other without overlap or hole and fill the file."""
    spans.sort()
    for _, end, name in spans:  # first: a wrong offset leaves a hole, which says less
        if end > data_bytes:
            raise CheckpointError(
                "data runs past the end of the file",
                file=storage.path,
                tensor=name,
                found=f"{data_bytes} bytes of data",
                expected=f"at least {end}",
                fix="download or copy it again",
            )
    at = 0
    for begin, end, name in spans:
        if begin != at:
            problem = "overlaps the tensor before it" if begin < at else "is preceded by bytes of no tensor"
            raise CheckpointError(
                problem,
                file=storage.path,
                tensor=name,
                found=f"begin {begin}",
                expected=at,
            )
        at = end
    if at != data_bytes:
        raise CheckpointError(
            "bytes after the last tensor",
            file=storage.path,
            found=f"{data_bytes} bytes of data",
            expected=at,
        )
