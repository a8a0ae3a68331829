"""The command line: arguments in, one clear line out. The only part of fastconv that prints."""

from fastconv.cli.main import main

__all__ = ["main"]
