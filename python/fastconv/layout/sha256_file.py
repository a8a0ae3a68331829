"""SHA-256 sums beside the files they are of, in the format of sha256sum (coreutils): FILE.sha256."""

from __future__ import annotations

import os
import re

from fastconv.errors import CheckpointError
from fastconv.paths import is_file

SUFFIX = ".sha256"
_READ_BYTES = 1 << 20
_LINE = re.compile(r"\\?([0-9a-fA-F]{64}) [ *](.+)")
_LONGEST = 1 << 16


def sha256(path: str | os.PathLike[str]) -> str:
    """The sum of a file, in hexadecimal; one pass over it. Raises OSError."""
    import hashlib

    digest = hashlib.sha256()
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(buffer):
            digest.update(view[:n])
    return digest.hexdigest()


def sum_line(digest: str, path: str) -> bytes:
    """The line of sha256sum, which escapes names that would break it."""
    name = os.path.basename(path)
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "\\" if escaped != name else ""
    return os.fsencode(f"{mark}{digest}  {escaped}\n")


def sum_beside(path: str) -> str | None:
    """The sum that stands beside a file, None where none does. Raises CheckpointError for one that cannot be read."""
    beside = path + SUFFIX
    if not is_file(beside):
        return None
    try:
        with open(beside, "rb") as file:
            text = os.fsdecode(file.read(_LONGEST))
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", file=beside) from None
    matches = [match for line in text.splitlines() if (match := _LINE.fullmatch(line))]
    named = [match for match in matches if match[2] == os.path.basename(path)] or matches[:1]
    if not named:
        raise CheckpointError("holds no SHA-256 sum", file=beside, fix="make it anew with sha256sum")
    return named[0][1].lower()
