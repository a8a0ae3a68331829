"""How the command line imports the gguf package: without mistral-common, whose import takes several times as long."""

from __future__ import annotations

import sys
from typing import Any


def import_gguf_alone() -> None:
    """Import gguf as if mistral-common were not installed.

    For a process of our own: gguf.MistralVocab, which fastconv has no use for, cannot be used in it afterwards.
    """
    name = "mistral_common"
    if "gguf" in sys.modules or name in sys.modules:
        return
    modules: dict[str, Any] = sys.modules
    modules[name] = None  # the import system's way of saying: not there
    try:
        import gguf  # noqa: F401
    finally:
        del modules[name]
