"""What `import fastconv` and `fastconv --help` leave alone, so that they stay quick and need no framework."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import write_wide

HEAVY = ["torch", "transformers", "gguf", "sentencepiece", "tokenizers", "tqdm", "safetensors"]
# By a conversion of a Hugging Face folder with a tokenizer.model to GGUF, with a PEFT LoRA or without. What is there of
# numpy, yaml and gguf then is a shell (cli/lazy_packages.py), which has no modules in it but those that are used.
NEVER_NEEDED = [
    *("torch", "transformers", "tokenizers", "tqdm", "safetensors", "mistral_common"),
    *("numpy._core", "numpy.core", "yaml.nodes", "gguf.gguf_writer", "gguf.quants", "gguf.vocab", "multiprocessing"),
    "fastconv.architecture.litgpt.model",
]


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


@pytest.mark.parametrize("with_lora", [False, True])
def test_a_conversion_loads_what_it_needs(tmp_path: Path, with_lora: bool) -> None:
    model = write_wide(tmp_path / "model")
    arguments = ["convert", str(model), "--outtype", "q4_0", "-o", str(tmp_path / "out.gguf"), "--quiet"]
    if with_lora:
        arguments += ["--lora", str(model / "adapter")]
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import fastconv.cli\n"
        f"code = fastconv.cli.main({arguments!r})\n"
        "print(code, *(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, *loaded = done.stdout.split()
    assert exit_code == "0"
    assert not {*NEVER_NEEDED} & {*loaded}
