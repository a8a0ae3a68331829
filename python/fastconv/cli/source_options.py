"""What is said of a source: the same options for every command that opens one."""

from __future__ import annotations

import argparse
import os
from typing import Any

from fastconv.errors import UsageError
from fastconv.request import VOCABULARY_KINDS

# Of the command line -> of ConvertRequest.
_FIELDS = {
    "vocab_dir": "vocab_dir",
    "vocabtype": "vocab_kind",
    "ctx": "n_ctx",
    "rms_eps": "rms_eps",
    "rope_base": "rope_base",
    "checkpoint_name": "checkpoint_name",
    "model_name": "model_name",
    "lora_alpha": "lora_alpha",
    "lora_r": "lora_r",
    "lora_qkv": "lora_qkv",
    "lora_layout": "lora_layout",
}


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """The adapters of a source, and what its files may leave unsaid."""
    parser.add_argument(
        "--lora",
        "--lora_path",
        "--lora-path",
        action="append",
        default=[],
        metavar="PATH[:SCALE]",
        help="adapter to merge, of PEFT, of Lit-GPT or in GGUF, repeatable; adapters add up",
    )
    parser.add_argument("--vocab-dir", metavar="DIR", help="folder with the tokenizer, if not beside the model")
    parser.add_argument("--vocabtype", choices=VOCABULARY_KINDS, help="kind of vocabulary (default: detected)")
    parser.add_argument("--ctx", type=int, metavar="N", help="context length (default: as the model says)")
    parser.add_argument("--rms-eps", type=float, metavar="X", help="epsilon of the norms, for files that do not say")
    parser.add_argument("--rope-base", type=float, metavar="X", help="base of the rotary positions, likewise")
    lit = parser.add_argument_group("Lit-GPT checkpoints")
    lit.add_argument("--checkpoint-name", metavar="FILE", help="file in SOURCE, such as lit_model_finetuned.pth")
    lit.add_argument(
        "--model-name", metavar="NAME", help="LitGPT's name of the model, if its settings are not beside it"
    )
    lit.add_argument("--lora-alpha", type=float, metavar="ALPHA", help="of a LoRA that does not say it")
    lit.add_argument("--lora-r", type=int, metavar="R", help="its rank, to be checked")
    lit.add_argument("--lora-qkv", metavar="PARTS", help="which of q, k and v it updates, such as q,v")
    lit.add_argument(
        "--lora-layout", metavar="LAYOUT", help="its rows in a QKV of 2023: contiguous, interleaved or chunked"
    )


def source_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options as fields of ConvertRequest. Raises UsageError for a scale that is no number."""
    fields = {field: getattr(arguments, name) for name, field in _FIELDS.items()}
    return fields | {"adapters": tuple(_adapter(text) for text in arguments.lora)}


def given_options(arguments: argparse.Namespace) -> list[str]:
    """Those that were given, as they are spelled."""
    given = [name for name in ("lora", *_FIELDS) if getattr(arguments, name) not in (None, [])]
    return [f"--{name.replace('_', '-')}" for name in given]


def _adapter(text: str) -> tuple[str, float]:
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
