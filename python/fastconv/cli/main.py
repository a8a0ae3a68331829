"""The commands, and how every one of them ends: exit code 0, 1 for bad input, 2 for wrong usage, 130 for Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from fastconv.cli.memory_limits import check_limits
from fastconv.cli.streams import complain, let_go, say
from fastconv.errors import FastconvError, UsageError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


def console(argv: Sequence[str] | None = None) -> NoReturn:
    """The program: main() in a process of its own."""
    hold_standard_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    # What a run makes lives until its end, so nothing is gained by looking for garbage, at the end least of all: 30 ms.
    gc.disable()
    try:
        code = main(argv)
    finally:
        let_go()
    gc.freeze()
    sys.exit(code)


def hold_standard_descriptors() -> None:
    """Where the caller closed 0, 1 or 2, a file would get the number, and what libraries print would go into it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: unwinds like Ctrl-C, so that temporary files are removed. args: (signal number,)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line. argv: without the program's name, default sys.argv[1:]. Returns the exit code."""
    # NumPy starts a thread per CPU for linear algebra that nothing here uses: 60 ms of every start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = None
    try:
        arguments = _parser().parse_args(argv)
        check_limits()
        with _unwinding_signals():
            return int(arguments.run(arguments))
    except FastconvError as error:
        complain(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        resumable = getattr(arguments, "resume", False)
        left = "the same command continues" if resumable else "no unfinished file is left"
        complain(f"interrupted, {left}")
        number = interrupt.args[0] if isinstance(interrupt, _Terminated) else signal.SIGINT
        return 128 + int(number)
    except MemoryError:
        complain("error: there is not enough memory")
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        told = FastconvError(f"the system refused a call ({error.strerror or error})", file=error.filename)
        complain(f"error: {told}")
        return 1


@contextlib.contextmanager
def _unwinding_signals() -> Iterator[None]:
    def unwind(number: int, _: FrameType | None) -> None:
        raise _Terminated(number)

    # Only the main thread may set handlers; a program that calls main() elsewhere keeps its own.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), unwind) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _parser() -> argparse.ArgumentParser:
    from fastconv.cli import convert_command, inspect_command, verify_command

    parser = _Parser(
        prog="fastconv",
        description="Convert language-model checkpoints, LoRA adapters included, into quantized files in one pass.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (convert_command, inspect_command, verify_command):
        command.add_parser(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like everything else does; subparsers are of this class too."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.strip(), fix=f"see {self.prog} --help")

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        if file is not None:
            super().print_help(file)
        else:
            say(self.format_help().rstrip("\n"))


class _Version(argparse.Action):
    """--version, looked up only when asked for: importlib.metadata is slow."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and the instruction set in use")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        check_limits()
        from fastconv.engine import instruction_set

        try:
            number = version("fastconv")
        except PackageNotFoundError:
            number = "unknown"
        say(f"fastconv {number} ({instruction_set()})")
        parser.exit()
