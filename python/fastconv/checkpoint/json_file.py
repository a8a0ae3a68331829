"""Reads the small JSON files beside a model. Knows nothing of what they say."""

from __future__ import annotations

import json
import os
from typing import Any

from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError

MAX_JSON_BYTES = 64 << 20  # the largest real one, an index of 100,000 tensors, needs less


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
    try:
        value = json.loads(storage.read(0, storage.size).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        problem = str(error) or type(error).__name__
        raise CheckpointError(f"is not valid JSON ({problem[:200]})", file=storage.path) from None
    if not isinstance(value, dict):
        raise CheckpointError("is not a JSON object", file=storage.path, found=type(value).__name__)
    return value
