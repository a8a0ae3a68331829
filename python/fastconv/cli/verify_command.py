"""`fastconv verify`: a file against the rules of its format, its checksum and its source."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import Any

from fastconv.cli.progress_bar import is_terminal, with_bar
from fastconv.cli.source_options import add_source_options, given_options, source_fields
from fastconv.cli.streams import say
from fastconv.errors import OutputError, UsageError
from fastconv.request import ConvertRequest

_REPORT_START = b"<!DOCTYPE html>"


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser = commands.add_parser(
        "verify",
        help="check a converted file, and every tensor against its source",
        description="Check the structure of a GGUF, GGML or safetensors file, its checksum if FILE.sha256 is there "
        "and, with --against, every tensor against its source. Exit code 0: all is well; 1: something is off.",
    )
    parser.add_argument("file", metavar="FILE", help="file, or model folder, to check")
    parser.add_argument("--against", metavar="SOURCE", help="what it was converted from, as for convert")
    add_source_options(parser)
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix that it was quantized with")
    parser.add_argument("--concurrency", type=int, metavar="N", help="threads (default: the CPUs this process may use)")
    parser.add_argument("--quiet", action="store_true", help="print what is wrong only")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--html", metavar="REPORT", help="write a page with tables and plots, in one file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed `verify` command line. Returns the exit code."""
    request = _request(arguments)
    if arguments.html is not None:
        _check_report(arguments)

    from fastconv.cli.lazy_packages import import_when_used

    import_when_used()
    from fastconv.cli import verify_report
    from fastconv.verification.verify import verify_request

    result = with_bar(
        lambda progress: verify_request(
            arguments.file, request, arguments.imatrix, threads=arguments.concurrency, progress=progress
        ),
        hidden=arguments.quiet or arguments.json,
    )
    if arguments.html is not None:
        from fastconv.cli.verify_page import page

        _write(arguments.html, page(result))
    if arguments.json:
        say(verify_report.as_json(result))
    else:
        width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None
        text = verify_report.as_text(result, quiet=arguments.quiet, width=width)
        if text:
            say(text)
    return 0 if result.is_fine else 1


def _request(arguments: argparse.Namespace) -> ConvertRequest | None:
    """Raises UsageError where the options do not make sense."""
    if arguments.against is None:
        given = [*given_options(arguments), *(["--imatrix"] if arguments.imatrix is not None else [])]
        if given:
            raise UsageError(f"{given[0]} is about the source", fix="give --against")
        return None
    return ConvertRequest(source=arguments.against, threads=arguments.concurrency, **source_fields(arguments))


def _check_report(arguments: argparse.Namespace) -> None:
    if not arguments.html:
        raise UsageError("--html is an empty name")
    folder = os.path.dirname(os.path.abspath(arguments.html))
    if not os.path.isdir(folder):
        raise OutputError("the folder does not exist", file=folder, fix="make it first")
    if os.path.isdir(arguments.html):
        raise OutputError("is a folder", file=arguments.html, fix="give --html a file name")
    if os.path.lexists(arguments.html) and not _is_report(arguments.html):
        raise OutputError("exists and is no report", file=arguments.html, fix="write to another file")


def _is_report(path: str) -> bool:
    """What may be replaced: no file of a model, and no device."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(_REPORT_START)) == _REPORT_START
    except OSError:
        return False


def _write(path: str, text: str) -> None:
    """An older report of that name is replaced."""
    from fastconv.layout.commit import commit_all
    from fastconv.layout.output_file import OutputFile

    data = text.encode("utf-8", "backslashreplace")
    with OutputFile(path, len(data), overwrite=True) as out:
        out.open()
        out.write(data, 0)
        out.sync()
        commit_all([out])
