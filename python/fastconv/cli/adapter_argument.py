"""PATH[:SCALE] of --lora, as every command takes it."""

from __future__ import annotations

import os

from fastconv.errors import UsageError


def adapter_argument(text: str) -> tuple[str, float]:
    """PATH[:SCALE]; a path that exists as given wins over a colon in it."""
    path, colon, scale = text.rpartition(":")
    if not colon or os.path.exists(text):
        return text, 1.0
    try:
        return path, float(scale)
    except ValueError:
        if os.path.exists(path):
            raise UsageError("the scale of --lora is not a number", found=scale) from None
        return text, 1.0
