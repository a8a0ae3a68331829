"""The first bytes by which formats are told apart. Imports no reader: they cost start-up time, and a run needs one."""

from __future__ import annotations

ZIP = b"PK\x03\x04"
GGUF = b"GGUF"
GIT_LFS = b"version https://git-lfs"

# The pickled number 0x1950a86a20f9469cfc6c; source: torch/serialization.py, MAGIC_NUMBER.
TORCH_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")

# The magic number as llama.cpp wrote it, a little-endian u32: models, then adapters and saved states.
GGML_FAMILIES = {b"lmgg": "ggml", b"fmgg": "ggmf", b"tjgg": "ggjt"}
GGML_OTHERS = (b"algg", b"nsgg")
