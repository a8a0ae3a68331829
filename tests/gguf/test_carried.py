"""GGUF files made from GGUF files, whole, byte for byte, against what llama-quantize of llama.cpp b11434 wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import fastconv
from fastconv.types import TYPES
from tests.gguf.carried_cases import CASES, CarriedCase
from tests.gguf.cases import CASES as CONVERTED

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDED = json.loads((GOLDEN / "carried" / "sha256.json").read_text())
CARRIED = {case.name: case for case in CASES}


# Mixtures hold types beside their own.
_PARTS = {"q4_k_m": ("q4_k", "q5_k"), "q3_k_l": ("q3_k", "q5_k"), "q2_k": ("q2_k", "q3_k", "q4_k"), "iq4_xs": ("q5_k",)}
WRITABLE = {name: all(TYPES[part].encodes for part in parts) for name, parts in _PARTS.items()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_case_is_recorded() -> None:
    assert {name: list(files) for name, files in RECORDED.items()} == {case.name: list(case.types) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_file_equals_llama_quantizes(case: CarriedCase, tmp_path: Path) -> None:
    source = case.write(tmp_path)
    for name, expected in RECORDED[case.name].items():
        target = tmp_path / f"{name}.out"
        if not WRITABLE.get(name, True):
            continue
        fastconv.convert(source, target, outtype="auto" if name == "copy" else name)
        assert sha256(target) == expected, name
        target.unlink()


@pytest.mark.parametrize("name", ["llama", "rope_llama3", "tied"])
def test_what_was_converted_is_quantized_as_llama_quantize_did(name: str, tmp_path: Path) -> None:
    case = next(case for case in CONVERTED if case.name == name)
    recorded = json.loads((GOLDEN / "gguf" / f"{name}.json").read_text("utf-8"))["files"]
    fastconv.convert(case.write(tmp_path), tmp_path / "bf16.gguf", outtype="bf16")
    assert sha256(tmp_path / "bf16.gguf") == recorded["bf16"]["file"]
    for type_name in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k"):
        fastconv.convert(tmp_path / "bf16.gguf", tmp_path / "out.gguf", outtype=type_name, overwrite=True)
        assert sha256(tmp_path / "out.gguf") == recorded[type_name]["file"], type_name
