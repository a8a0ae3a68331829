"""The command line: arguments in, one clear line out. The only part of fastconv that prints."""

from fastconv.cli.main import console, main

__all__ = ["console", "main"]
