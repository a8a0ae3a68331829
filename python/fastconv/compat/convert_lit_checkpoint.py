"""The command line of Lit-GPT's scripts/convert_lit_checkpoint.py of 2023, on today's engine.

Translates arguments and nothing else. Its three forms: --checkpoint_name in --checkpoint_dir (July), or in --out_dir
with --model_name (August), both written to <name>.bin beside it; --checkpoint_path to --output_path (September on).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastconv.checkpoint.json_file import read_json_object
from fastconv.compat.old_command import run, to_bin_file


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `fastconv convert --to hf` with the arguments of convert_lit_checkpoint; returns its exit code."""
    return run(translate, argv)


def console() -> NoReturn:
    """The program."""
    sys.exit(main())


def translate(argv: Sequence[str]) -> list[str]:
    """Arguments of convert_lit_checkpoint -> arguments of fastconv. Exits with code 2 and the usage where they are
    wrong. Raises CheckpointError for a configuration that cannot be read."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.checkpoint_path is not None:
        if args.output_path is None:
            parser.error("--checkpoint_path needs --output_path")
        source, target = args.checkpoint_path, args.output_path
    else:
        folder = args.out_dir or args.checkpoint_dir
        if args.checkpoint_name is None or folder is None:
            parser.error("give --checkpoint_name with --out_dir, or --checkpoint_path with --output_path")
        source = os.path.join(folder, args.checkpoint_name)
        target = os.path.splitext(source)[0] + ".bin"
    name = args.model_name
    if args.config_path is not None:
        beside = os.path.dirname(os.path.abspath(args.config_path)) == os.path.dirname(os.path.abspath(source))
        name = None if beside else str(read_json_object(args.config_path).get("name"))
    return to_bin_file(source, target, name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convert_lit_checkpoint",
        description="Convert a Lit-GPT checkpoint to a .bin file.",
    )
    parser.add_argument("--checkpoint_name", help="file in --out_dir or --checkpoint_dir")
    parser.add_argument("--out_dir", help="folder of the checkpoint and of the output")
    parser.add_argument("--checkpoint_dir", help="the same")
    parser.add_argument("--model_name", help="Lit-GPT's name of the model")
    parser.add_argument("--checkpoint_path", help="the checkpoint")
    parser.add_argument("--output_path", help="file to write")
    parser.add_argument("--config_path", help="lit_config.json of the model")
    return parser


if __name__ == "__main__":
    console()
