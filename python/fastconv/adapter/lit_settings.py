"""What a Lit-GPT LoRA says of itself in the files beside it, or the user in its place. Knows no tensors."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

from fastconv.checkpoint.json_file import read_json_object
from fastconv.checkpoint.yaml_file import read_yaml_object
from fastconv.errors import AdapterError, UsageError
from fastconv.paths import exists
from fastconv.record import record

CONTIGUOUS, INTERLEAVED, CHUNKED = "contiguous", "interleaved", "chunked"
LAYOUTS = (CONTIGUOUS, INTERLEAVED, CHUNKED)
"""Where the rows of B lie in an interleaved QKV: as q, k and v blocks of it (until 5 February 2024, and always with all
three); on the rows of q, k and v themselves; or as blocks, cut into equal chunks (until 14 August 2023)."""


@record(eq=True)
class LitLoraOptions:
    """None: as the files beside it or its shapes say. qkv: the letters of the parts of QKV that are updated.

    Raises UsageError for values that make no sense.
    """

    alpha: float | None = None
    r: int | None = None
    qkv: str | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise UsageError("--lora-alpha is not finite", found=self.alpha)
        if self.r is not None and self.r < 1:
            raise UsageError("--lora-r is out of range", found=self.r, expected="1 or more")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise UsageError("unknown --lora-layout", found=self.layout, expected=f"one of {', '.join(LAYOUTS)}")
        if self.qkv is not None and self.qkv not in ("q", "k", "v", "qk", "qv", "kv", "qkv"):
            raise UsageError("unknown --lora-qkv", found=self.qkv, expected="some of q, k and v, such as q,v")


def parse_qkv(text: str) -> str:
    """ "q,v" or "v q" as "qv"; what it is not stays as it is, for LitLoraOptions to refuse."""
    words = text.lower().replace(",", " ").split()
    letters = sorted(word[:1] if word in ("query", "key", "value") else word for word in words)
    return "".join(sorted(letters, key=lambda letter: "qkv".find(letter)))


def read_settings(file: str, given: LitLoraOptions) -> LitLoraOptions:
    """The user's settings, completed from hyperparameters.yaml or lit_lora_config.json beside the file.

    Raises AdapterError for a setting of the wrong type.
    """
    folder = os.path.dirname(file) or "."
    found = LitLoraOptions()
    hyperparameters = os.path.join(folder, "hyperparameters.yaml")
    lora_config = os.path.join(folder, "lit_lora_config.json")
    if exists(hyperparameters):
        fields = read_yaml_object(hyperparameters)
        nested = fields.get("lora")
        named = {key.removeprefix("lora_"): value for key, value in fields.items() if key.startswith("lora_")}
        named |= nested if isinstance(nested, dict) else {}
        found = _settings(hyperparameters, named, "")
        found = replace(found, layout=INTERLEAVED)
    elif exists(lora_config):
        config = read_json_object(lora_config)
        inner = config.get("config")
        found = _settings(lora_config, inner if isinstance(inner, dict) else config, "to_")
        found = replace(found, layout=CONTIGUOUS)
    elif file.endswith(".pth.lora"):
        found = replace(found, layout=INTERLEAVED)  # named so since March 2024
    return LitLoraOptions(
        alpha=found.alpha if given.alpha is None else given.alpha,
        r=found.r if given.r is None else given.r,
        qkv=given.qkv or found.qkv,
        layout=given.layout or found.layout,
    )


def _settings(path: str, fields: dict[str, Any], prefix: str) -> LitLoraOptions:
    """prefix: of the flags."""
    alpha, r = fields.get("alpha"), fields.get("r")
    if alpha is not None and (type(alpha) not in (int, float) or not math.isfinite(alpha)):
        raise AdapterError("alpha is no number", file=path, found=repr(alpha)[:80])
    if r is not None and (type(r) is not int or r < 1):
        raise AdapterError("r is no rank", file=path, found=repr(r)[:80])
    flags = [fields.get(f"{prefix}{word}") for word in ("query", "key", "value")]
    qkv = None
    if any(flag is not None for flag in flags):
        for flag in flags:
            if flag is not None and type(flag) is not bool:
                raise AdapterError("a flag is neither true nor false", file=path, found=repr(flag)[:80])
        qkv = "".join(letter for letter, flag in zip("qkv", flags, strict=True) if flag)
    return LitLoraOptions(alpha=alpha, r=r, qkv=qkv or None)
