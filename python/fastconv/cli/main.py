"""The commands, and how every one of them ends: exit code 0, 1 for bad input, 2 for wrong usage, 130 for Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fastconv.errors import FastconvError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line. argv: without the program's name, default sys.argv[1:]. Returns the exit code."""
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        return int(arguments.run(arguments))
    except FastconvError as error:
        print(f"fastconv: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("fastconv: interrupted, nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    from fastconv.cli import convert_command, inspect_command

    parser = argparse.ArgumentParser(
        prog="fastconv",
        description="Convert language-model checkpoints, LoRA adapters included, into quantized files in one pass.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (convert_command, inspect_command):
        command.add_parser(commands)
    return parser


class _Version(argparse.Action):
    """--version, looked up only when asked for: importlib.metadata is slow."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and the instruction set in use")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        from fastconv import _native

        try:
            number = version("fastconv")
        except PackageNotFoundError:
            number = "unknown"
        parser.exit(0, f"fastconv {number} ({_native.isa()})\n")
