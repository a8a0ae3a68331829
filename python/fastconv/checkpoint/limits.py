"""How much memory a header may ask for, whatever its bytes say. Knows sizes of Python's objects, no format."""

from __future__ import annotations

from fastconv.errors import CheckpointError

MAX_TENSORS = 1 << 16  # of one file; the largest models of today have 100,000 in a hundred files
MAX_HEADER_MEMORY = 64 << 20


def check_tensor_count(path: str, count: int) -> None:
    """Raises CheckpointError where a file holds more tensors than any model: each costs memory before it is read."""
    if count > MAX_TENSORS:
        raise CheckpointError(
            "holds more tensors than fastconv reads from one file",
            file=path,
            found=count,
            expected=f"at most {MAX_TENSORS}",
            fix="split it into shards",
        )


def text_width(raw: bytes) -> int:
    """Bytes per character, at most, of a UTF-8 text in Python: as many as its widest one needs."""
    return 1 if raw.isascii() else 4 if any(byte in raw for byte in b"\xf0\xf1\xf2\xf3\xf4") else 2


def check_json_memory(path: str, raw: bytes, limit: int) -> None:
    """Raises CheckpointError where parsing a JSON text could take more than `limit` bytes.

    An upper bound by its punctuation, for a few bytes of text can become an object of hundreds.
    """
    if len(raw) <= limit >> 6:  # no text grows more than that
        return
    needed = len(raw) * (1 + 2 * text_width(raw)) + 64 * (raw.count(b",") + raw.count(b":") + raw.count(b"["))
    needed += 192 * raw.count(b"{")
    if needed > limit:
        raise CheckpointError(
            "is too large to be read",
            file=path,
            found=f"{len(raw)} bytes of JSON that may need {needed >> 20} MB of memory",
            expected=f"at most {limit >> 20} MB",
        )
