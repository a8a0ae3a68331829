"""The command line of convert_lit_lora_checkpoint.py, as two drafts for Lit-GPT had it in September 2023.

Translates arguments and nothing else. The first names the files (--checkpoint_path, --lora_path, --model_name) and has
its settings in lit_lora_config.json; the second names folders (--checkpoint_dir, --out_dir) and has them as constants:
r 8, alpha 16, query and value. Both write converted_merged_lora_model.bin beside the base.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastconv.compat.old_command import run, to_bin_file

OUTPUT_NAME = "converted_merged_lora_model.bin"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `fastconv convert --to hf` with the arguments of convert_lit_lora_checkpoint; returns its exit code."""
    return run(translate, argv)


def console() -> NoReturn:
    """The program."""
    sys.exit(main())


def translate(argv: Sequence[str]) -> list[str]:
    """Arguments of convert_lit_lora_checkpoint -> arguments of fastconv. Exits with code 2 and the usage where they are
    wrong."""
    parser = _parser()
    args = parser.parse_args(argv)
    if (args.checkpoint_path is None) == (args.checkpoint_dir is None):
        parser.error("give either --checkpoint_path or --checkpoint_dir")
    source = args.checkpoint_path or os.path.join(args.checkpoint_dir, "lit_model.pth")
    translated = to_bin_file(source, os.path.join(os.path.dirname(source), OUTPUT_NAME), args.model_name)
    if args.merge_lora:
        if args.lora_path is None:
            parser.error("--merge_lora needs --lora_path")
        translated += ["--lora", args.lora_path]
        has_settings = os.path.exists(os.path.join(os.path.dirname(args.lora_path), "lit_lora_config.json"))
        if args.checkpoint_dir is not None and not has_settings:
            translated += ["--lora-alpha", "16", "--lora-r", "8", "--lora-qkv", "q,v", "--lora-layout", "contiguous"]
    return translated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convert_lit_lora_checkpoint", description="Merge a Lit-GPT LoRA and convert to Hugging Face's names."
    )
    parser.add_argument("--checkpoint_path", help="the base, or what was merged already")
    parser.add_argument("--checkpoint_dir", help="folder of the base, lit_model.pth")
    parser.add_argument("--out_dir", help="where the merged checkpoint stood in between; nothing is written there now")
    parser.add_argument("--lora_path", help="the LoRA")
    parser.add_argument("--lora_config_path", help="settings of what was merged already: not needed now")
    parser.add_argument("--model_name", help="Lit-GPT's name of the model")
    parser.add_argument("--merge_lora", "--merge", type=_flag, default=False, metavar="BOOL", help="merge the LoRA")
    parser.add_argument("--save_merge", type=_flag, metavar="BOOL", help="not needed now: nothing is kept in between")
    parser.add_argument("--precision", help="not needed now: updates are added in f32")
    return parser


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise argparse.ArgumentTypeError(f"{text} is neither true nor false")
    return text.lower() in ("true", "1", "yes")


if __name__ == "__main__":
    console()
