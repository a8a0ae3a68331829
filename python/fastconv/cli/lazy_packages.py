"""Packages that the command line imports module by module, or when first used: their import takes longer than many a
conversion.

gguf as a whole brings NumPy, YAML, SentencePiece and, where it is installed, mistral-common; a conversion to GGUF needs
two of its modules. Python's own importlib.util.LazyLoader will not do: the next `import` statement that names such a
module executes it.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

_PACKAGES = ("gguf", "numpy", "yaml")


def import_when_used() -> None:
    """Let these packages execute at the first use of a name of theirs; their modules can be imported before.

    For a process of our own, at its start.
    """
    for name in _PACKAGES:
        _import_when_used(name)


def _import_when_used(name: str) -> None:
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def execute(attribute: str) -> Any:
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = execute
    sys.modules[name] = package
