"""What the command lines of older programs share: they translate their arguments and hand over to fastconv's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from fastconv import cli
from fastconv.errors import FastconvError


def run(translate: Callable[[Sequence[str]], list[str]], argv: Sequence[str] | None) -> int:
    """The exit code of fastconv with translated arguments. argv: None for the process's own."""
    try:
        arguments = translate(sys.argv[1:] if argv is None else argv)
    except FastconvError as error:
        print(f"fastconv: error: {error}", file=sys.stderr)
        return error.exit_code
    return cli.main(arguments)


def to_bin_file(source: str, target: str, model_name: str | None) -> list[str]:
    """fastconv's arguments for what Lit-GPT's converters of 2023 wrote: one .bin, an older one replaced in silence."""
    arguments = ["convert", source, "--to", "hf", "--format", "bin", "--outfile", target, "--overwrite"]
    return arguments if model_name is None else [*arguments, "--model-name", model_name]
