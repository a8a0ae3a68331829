"""The command line of the llama_convert script of 2023 (llama.cpp's convert.py with --lora_path), on today's engine.

Translates arguments and nothing else: what they mean is the command line's. It writes GGJT, as the script did.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastconv import cli
from fastconv.compat.old_command import run

_OUTTYPES = ("f32", "f16", "q4_1", "q4_0")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `fastconv convert --to ggjt` with the arguments of llama_convert; returns its exit code."""
    return run(translate, argv)


def console() -> NoReturn:
    """The program: main() in a process of its own."""
    cli.console(translate(sys.argv[1:]))


def translate(argv: Sequence[str]) -> list[str]:
    """Arguments of llama_convert -> arguments of fastconv. Exits with code 2 and the usage where they are wrong."""
    args = _parser().parse_args(argv)
    translated = ["convert", args.model, "--to", "ggjt"]
    for option, value in (
        ("--outtype", args.outtype),
        ("--vocab-dir", args.vocab_dir),
        ("--outfile", args.outfile),
        ("--vocabtype", args.vocabtype),
        ("--lora", args.lora_path),
        ("--concurrency", args.concurrency),
    ):
        if value is not None:
            translated += [option, str(value)]
    for flag, given in (
        ("--dump", args.dump),
        ("--dump-single", args.dump_single),
        ("--vocab-only", args.vocab_only),
        ("--overwrite", args.overwrite),
    ):
        if given:
            translated.append(flag)
    return translated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama_convert", description="Convert a LLaMA model, a LoRA adapter merged on the way, to a GGJT v3 file."
    )
    parser.add_argument("--dump", action="store_true", help="show the model's tensors and stop")
    parser.add_argument("--dump-single", action="store_true", help="show the tensors of one model file and stop")
    parser.add_argument("--vocab-only", action="store_true", help="write a file with the vocabulary alone")
    parser.add_argument("--outtype", choices=_OUTTYPES, help="type of the output (default: as the input)")
    parser.add_argument("--vocab-dir", help="folder of tokenizer.model, if not the model's")
    parser.add_argument("--outfile", help="file to write (default: beside the input, named after the type)")
    parser.add_argument("--vocabtype", choices=("spm", "bpe"), help="kind of vocabulary (default: detected)")
    parser.add_argument("--lora_path", help="LoRA adapter to merge: its folder or its adapter_model file")
    parser.add_argument("--concurrency", type=int, help="number of threads (default: the CPUs this process may use)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    parser.add_argument("model", help="model folder, or a model file (*.pth, *.pt, *.bin, *.safetensors)")
    return parser


if __name__ == "__main__":
    console()
