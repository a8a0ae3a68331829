"""fastconv: language-model checkpoints, LoRA adapters included, to quantized files in one streaming pass.

    fastconv.convert("path/to/model", lora=["path/to/adapter"], outtype="q4_0", outfile="model.gguf")

Everything is imported where it is first used, so that `import fastconv` and `fastconv --help` stay fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastconv.errors import FastconvError

if TYPE_CHECKING:
    from fastconv.arrays import dequantize, quantize
    from fastconv.checkpoint.open import open_checkpoint as open
    from fastconv.conversion import ConversionResult, convert
    from fastconv.inspection import inspect
    from fastconv.verification.verify import verify

__all__ = ["ConversionResult", "FastconvError", "convert", "dequantize", "inspect", "open", "quantize", "verify"]

_HOMES = {
    "ConversionResult": ("fastconv.conversion", "ConversionResult"),
    "convert": ("fastconv.conversion", "convert"),
    "dequantize": ("fastconv.arrays", "dequantize"),
    "inspect": ("fastconv.inspection", "inspect"),
    "open": ("fastconv.checkpoint.open", "open_checkpoint"),
    "quantize": ("fastconv.arrays", "quantize"),
    "verify": ("fastconv.verification.verify", "verify"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastconv' has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
