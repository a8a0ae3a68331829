"""Reads the JSON texts in and beside a model. Knows nothing of what they say."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from fastconv.checkpoint.limits import MAX_HEADER_MEMORY, check_json_memory
from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError

MAX_JSON_BYTES = 64 << 20  # the largest real one, an index of 100,000 tensors, needs less

MAX_JSON_DEPTH = 64  # real ones are five deep; what walks through a value, repr() too, goes one call deeper per level

_NO_MARKS = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_PIECE = 1 << 20  # characters
# What a value must be looked through for: half of a surrogate pair, and numbers beyond float64.
_SUSPECT = re.compile(r"\\u[dD][89a-fA-F]|\d{300}")


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError if the file is missing, too large or holds something else."""
    storage = FileStorage(path)
    if storage.size > MAX_JSON_BYTES:
        raise CheckpointError(
            "is too large",
            file=storage.path,
            found=f"{storage.size} bytes",
            expected=f"at most {MAX_JSON_BYTES}",
        )
    raw = storage.read(0, storage.size)
    check_json_memory(storage.path, raw, MAX_HEADER_MEMORY)
    try:
        value = parse_json(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is not valid JSON ({first_line(error)})", file=storage.path) from None
    if not isinstance(value, dict):
        raise CheckpointError("is not a JSON object", file=storage.path, found=type(value).__name__)
    return value


def parse_json(text: str) -> Any:
    """The value of a JSON text in which no key stands twice. NaN and infinities are numbers, as in real files.

    Raises ValueError or RecursionError for anything else, for text that is none (a lone surrogate), for integers beyond
    the range of float64 and for what is nested deeper than MAX_JSON_DEPTH.
    """
    value = json.loads(text, object_pairs_hook=_unique_keys)
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
        _check_depth(text)
    if _SUSPECT.search(text):
        _check_values(value)
    return value


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate key {key!r}"[:120])
            seen.add(key)
    return unique


def _check_depth(valid: str) -> None:
    """By its brackets, whose innermost pairs are taken away level by level: no walk through millions of values."""
    # Quotes that meet once all else is gone begin and end one string, or part two: what is a string stays one.
    marks = b"".join(_marks(valid)).replace(b'""', b"")
    brackets = re.sub(rb'"[^"]*"', b"", marks)
    for _ in range(MAX_JSON_DEPTH):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if not brackets:
            return
    raise ValueError(f"is nested deeper than {MAX_JSON_DEPTH} levels")


def _marks(valid: str) -> Iterator[bytes]:
    """Its brackets and the quotes around its strings, in pieces that part no escaped character."""
    begin = 0
    while begin < len(valid):
        end = begin + _PIECE
        while valid[end - 1 : end] == "\\":
            end += 1
        piece = valid[begin:end].encode("utf-8", "surrogatepass")
        yield piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARKS)
        begin = end


def _check_values(value: Any) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += item
            pending += item.values()
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str):
            item.encode()
        elif type(item) is int and not -(1 << 1023) < item < 1 << 1023:
            raise ValueError("an integer is too large")
