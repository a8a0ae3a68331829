"""Opens an adapter of any kind: PEFT's, Lit-GPT's, or GGUF's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastconv.adapter.lit_files import lit_lora_file
from fastconv.adapter.peft import PeftAdapter, open_peft_adapter
from fastconv.architecture.spec import CanonicalModel, NamedModel
from fastconv.checkpoint import marks
from fastconv.checkpoint.open import open_checkpoint
from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import AdapterError
from fastconv.paths import is_file

if TYPE_CHECKING:
    from fastconv.adapter.lit_lora import LitLora
    from fastconv.adapter.lit_settings import LitLoraOptions


def open_adapter(path: str, model: NamedModel, lit_options: LitLoraOptions) -> PeftAdapter | LitLora:
    """path: folder or file. Raises AdapterError where it is none of these, or none for this model."""
    lit_file = lit_lora_file(path)
    if lit_file is not None:
        from fastconv.adapter.lit_lora import open_lit_lora

        return open_lit_lora(path, lit_file, model, lit_options)
    if not is_file(path):
        return open_peft_adapter(path)
    storage = FileStorage(path)
    if storage.read(0, min(len(marks.GGUF), storage.size)) != marks.GGUF:
        return open_peft_adapter(path)
    if not isinstance(model, CanonicalModel):
        raise AdapterError(
            "is in GGUF, whose names need a known architecture", file=path, fix="give the adapter as PEFT saved it"
        )
    from fastconv.adapter.gguf_adapter import open_gguf_adapter

    return open_gguf_adapter(open_checkpoint(path), model)
