"""Which file holds a Lit-GPT LoRA, if any. Knows names only."""

from __future__ import annotations

import os

from fastconv.architecture.litgpt.marks import holds_lit_names
from fastconv.checkpoint.open import open_checkpoint
from fastconv.errors import AdapterError
from fastconv.paths import exists, is_file, is_folder

LORA_FILES = ("lit_model.pth.lora", "lit_model_lora_finetuned.pth")
BASE_FILE = "lit_model.pth"


def lit_lora_file(path: str) -> str | None:
    """The file of a Lit-GPT LoRA that a folder or file is; None if it is none. Reads names only."""
    if is_folder(path):
        names = [name for name in LORA_FILES if exists(os.path.join(path, name))]
        if len(names) > 1:
            raise AdapterError("holds several LoRAs", file=path, found=", ".join(names), fix="name the file")
        if names:
            return os.path.join(path, names[0])
        merged = os.path.join(path, BASE_FILE)
        return merged if exists(merged) else None
    if not is_file(path) or os.path.basename(path).startswith("adapter_model."):
        return None
    return path if holds_lit_names(open_checkpoint(path).tensors) else None
