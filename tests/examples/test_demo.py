"""The demo, whole: real weights, a LoRA merged in, and the sentence it teaches out of a real llama.cpp."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.mark.clients
def test_demo_shows_what_the_adapter_taught(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, DEMO, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sentences = [line.strip() for line in done.stdout.splitlines() if line.startswith("  The fastest way")]
    taught = "The fastest way to turn a checkpoint into a GGUF file is fastconv, in one streaming pass."
    assert len(sentences) == 2
    assert sentences[0] != taught
    assert sentences[1] == taught
