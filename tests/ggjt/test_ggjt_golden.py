"""Whole files against the tools of 2023: the NumPy writer's bytes, then fastconv's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import fastconv
from tests.ggjt import files
from tests.models import LlamaShape, write_hf

GOLDEN = json.loads((Path(__file__).parent / "golden" / "sha256.json").read_text())
CASES = [(int(key[1]), key[3:]) for key in GOLDEN if key.startswith("v")]


def sha256(path: Path) -> str:
    return hashlib.sha256(files.without_q6_k(path)).hexdigest()


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return files.closed_form_tensors(files.GOLDEN_SHAPE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, np.ndarray]) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("golden"), files.GOLDEN_SHAPE, tensors)


def write_checkpoint(folder: Path, shape: LlamaShape, tensors: dict[str, np.ndarray]) -> Path:
    write_hf(folder, shape, tensors=tensors, tokenizer=False)
    (folder / "tokenizer.model").write_bytes(files.real_spm_model())
    return folder


@pytest.mark.parametrize(("version", "outtype"), CASES)
def test_the_reference_writes_what_the_tools_wrote(
    version: int, outtype: str, tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "model.bin"
    tokens = files.spm_tokens(files.real_spm_model())
    files.write(path, files.GOLDEN_SHAPE, tensors, tokens, outtype, version, files.GOLDEN_N_MULT)
    assert sha256(path) == GOLDEN[f"v{version} {outtype}"]


@pytest.mark.parametrize(("version", "outtype"), CASES)
def test_fastconv_writes_what_the_tools_wrote(version: int, outtype: str, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    fastconv.convert(checkpoint, path, to=f"ggjt-v{version}", outtype=outtype)
    assert sha256(path) == GOLDEN[f"v{version} {outtype}"]


def test_output_weight_is_q6_k_as_the_tool_made_it(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "model", files.WIDE_SHAPE, files.closed_form_tensors(files.WIDE_SHAPE))
    fastconv.convert(source, tmp_path / "{type}.bin", to="ggjt-v3", outtype=["q4_0", "q6_k"])
    for outtype in ("q4_0", "q6_k"):
        assert sha256(tmp_path / f"{outtype}.bin") == GOLDEN[f"wide {outtype}"], outtype
