"""What made a file, as text for its metadata. The same command gives the same text: no dates, no host names."""

from __future__ import annotations

import dataclasses
import json

from fastconv.errors import AdapterError
from fastconv.layout.sha256_file import sha256
from fastconv.paths import is_folder
from fastconv.request import ConvertRequest

PREFIX = "fastconv."
TOLD_ELSEWHERE = ("source", "outfile", "adapters", "threads", "overwrite", "checksum", "resume", "sync", "max_memory")
"""Fields of a request that are told beside the options, or without influence on the bytes."""


def provenance(request: ConvertRequest) -> dict[str, str]:
    """Key -> value: version, source, adapters with their SHA-256, options that are not the defaults.

    Empty unless the request asks for it. Raises AdapterError where an adapter cannot be read.
    """
    if not request.provenance:
        return {}
    options = {
        field.name: getattr(request, field.name)
        for field in dataclasses.fields(request)
        if field.name not in (*TOLD_ELSEWHERE, "provenance") and getattr(request, field.name) != field.default
    }
    adapters = [{"path": path, "scale": scale, "sha256": _adapter_sum(path)} for path, scale in request.adapters]
    return {
        f"{PREFIX}version": version(),
        f"{PREFIX}source": request.source,
        f"{PREFIX}adapters": json.dumps(adapters),
        f"{PREFIX}options": json.dumps(options, sort_keys=True),
    }


def version() -> str:
    """fastconv's own; "unknown" where it is not installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("fastconv")
    except PackageNotFoundError:
        return "unknown"


def _adapter_sum(path: str) -> str:
    from fastconv.adapter.peft import adapter_file

    file = adapter_file(path) if is_folder(path) else path
    try:
        return sha256(file)
    except OSError as error:
        raise AdapterError(f"cannot be read ({error.strerror})", file=file) from None
