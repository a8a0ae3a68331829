"""Whole files, byte for byte, against what llama.cpp b11434 wrote: its converter, then its quantizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fastconv import convert
from tests.gguf.cases import CASES, Case
from tests.gguf.gguf_file import GgufFile

RECORDED = Path(__file__).parents[1] / "golden" / "gguf"


def test_every_case_is_recorded() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == {case.name for case in CASES}


@pytest.mark.usefixtures("digests_as_names")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_file_equals_llama_cpps(case: Case, tmp_path: Path) -> None:
    recorded = json.loads((RECORDED / f"{case.name}.json").read_text("utf-8"))
    source = case.write(tmp_path)
    types = [name for name in recorded["files"] if name != "vocab"]
    convert(source, tmp_path / "{type}.gguf", outtype=types)
    if "vocab" in recorded["files"]:
        convert(source, tmp_path / "vocab.gguf", vocab_only=True)

    keys = json.loads(json.dumps(GgufFile(tmp_path / f"{types[0]}.gguf").described()))
    assert keys == recorded["keys"]
    for name, expected in recorded["files"].items():
        written = GgufFile(tmp_path / f"{name}.gguf")
        assert [[tensor.name, tensor.type] for tensor in written.tensors] == expected["tensors"], name
        assert hashlib.sha256(written.header).hexdigest() == expected["header"], name
        assert hashlib.sha256((tmp_path / f"{name}.gguf").read_bytes()).hexdigest() == expected["file"], name
