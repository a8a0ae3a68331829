"""What `import fastconv` and `fastconv --help` leave alone, so that they stay quick and need no framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "gguf", "sentencepiece", "tokenizers", "tqdm", "safetensors"]


@pytest.mark.parametrize("statement", ["import fastconv", "import fastconv.cli", "import fastconv.conversion"])
def test_import_loads_nothing_heavy(statement: str) -> None:
    code = f"import sys; {statement}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, fastconv.cli\n"
        "try: fastconv.cli.main(['--help'])\n"
        f"except SystemExit: print('loaded:', *(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]


def test_version_goes_to_standard_output() -> None:
    done = subprocess.run([sys.executable, "-m", "fastconv", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fastconv ")
    assert done.stderr == ""
