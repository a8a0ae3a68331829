"""Whole conversions to GGJT through the command lines, read back by a reader that is not fastconv's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import merged, write_adapter
from tests.ggjt import blocks, files
from tests.models import LlamaShape, write_hf

GROUPED = LlamaShape(n_ff=192)
TIED = LlamaShape(n_ff=192, n_head_kv=4, tied=True)
PLAIN = LlamaShape(n_ff=192, n_head_kv=4)


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def expected_data(tensors: dict[str, np.ndarray], shape: LlamaShape, outtype: str, version: int) -> dict[str, bytes]:
    return {
        name: blocks.encode(x, outtype if x.ndim == 2 else "f32", version)
        for name, x in files.in_file_order(tensors, shape).items()
    }


@pytest.mark.parametrize("shape", [GROUPED, TIED], ids=["grouped", "tied"])
@pytest.mark.parametrize("outtype", ["f16", "q4_0", "q8_0"])
def test_grouped_and_tied_models(shape: LlamaShape, outtype: str, tmp_path: Path) -> None:
    tensors = write_hf(tmp_path / "model", shape)
    done = run("fastconv", "convert", tmp_path / "model", "--to", "ggjt", "--outtype", outtype)
    assert (done.returncode, done.stderr) == (0, "")
    if shape is GROUPED:
        assert "note: GGJT holds none of this, so tell its readers: -gqa 2 -eps 1e-05" in done.stdout
    found = files.read(tmp_path / "model" / f"ggml-model-{outtype}.bin")
    assert found.tokens == files.spm_tokens((tmp_path / "model" / "tokenizer.model").read_bytes())
    data = {name: tensor.data for name, tensor in found.tensors.items()}
    assert data == expected_data(tensors, shape, outtype, 3)


@pytest.mark.parametrize(("dtype", "outtype"), [("F16", "f16"), ("F32", "f32"), ("BF16", "f32")])
def test_the_type_of_the_input(dtype: str, outtype: str, tmp_path: Path) -> None:
    write_hf(tmp_path / "model", PLAIN, dtype=dtype)
    done = run("fastconv.compat.llama_convert", tmp_path / "model")
    assert (done.returncode, done.stderr) == (0, "")
    found = files.read(tmp_path / "model" / f"ggml-model-{outtype}.bin")
    assert (found.version, found.header["ftype"]) == (3, files.FTYPES[outtype])


def test_llama_convert_merges_an_adapter(tmp_path: Path) -> None:
    tensors = write_hf(tmp_path / "model", PLAIN)
    factors = write_adapter(tmp_path / "lora", PLAIN, rank=4, alpha=8)
    out = tmp_path / "out.bin"
    adapter = tmp_path / "lora" / "adapter_model.safetensors"
    done = run(
        "fastconv.compat.llama_convert",
        *("--lora_path", adapter, "--outtype", "q4_1", "--outfile", out, "--concurrency", 2, tmp_path / "model"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name, (a, b) in factors.items():
        tensors[name] = merged(tensors[name], a, b, 2.0)
    data = {name: tensor.data for name, tensor in files.read(out).tensors.items()}
    assert data == expected_data(tensors, PLAIN, "q4_1", 3)


def test_a_meta_checkpoint_gives_the_same_file(tmp_path: Path) -> None:
    import torch

    tensors = write_hf(tmp_path / "hf", PLAIN)
    meta = tmp_path / "meta"
    meta.mkdir()
    # GGJT files have Meta's names and rows.
    state = {name: torch.from_numpy(x.copy()) for name, x in files.in_file_order(tensors, PLAIN).items()}
    torch.save(state, meta / "consolidated.00.pth")
    params = {"dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 192, "norm_eps": 1e-5, "vocab_size": -1}
    (meta / "params.json").write_text(json.dumps(params))
    (meta / "tokenizer.model").write_bytes((tmp_path / "hf" / "tokenizer.model").read_bytes())
    for source in ("hf", "meta"):
        done = run(
            "fastconv",
            "convert",
            tmp_path / source,
            "--to",
            "ggjt-v1",
            "--outtype",
            "q4_0",
            "-o",
            tmp_path / f"{source}.bin",
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "hf.bin").read_bytes() == (tmp_path / "meta.bin").read_bytes()


def test_vocabulary_alone(tmp_path: Path) -> None:
    write_hf(tmp_path / "model", PLAIN)
    done = run("fastconv", "convert", tmp_path / "model", "--to", "ggjt-v1", "--vocab-only", "-o", tmp_path / "v.bin")
    assert (done.returncode, done.stderr) == (0, "")
    found = files.read(tmp_path / "v.bin")
    assert found.tensors == {}
    assert found.tokens == files.spm_tokens((tmp_path / "model" / "tokenizer.model").read_bytes())


def test_the_plan_tells_the_file(tmp_path: Path) -> None:
    write_hf(tmp_path / "model", TIED)
    arguments = ("convert", tmp_path / "model", "--to", "ggjt-v2", "--outtype", "q4_0", "-o", tmp_path / "out.bin")
    (plan,) = json.loads(run("fastconv", *arguments, "--dry-run", "--json").stdout)["outputs"]
    assert not (tmp_path / "out.bin").exists()
    assert run("fastconv", *arguments).returncode == 0
    assert plan["bytes"] == (tmp_path / "out.bin").stat().st_size
    places = {
        name: (tensor.offset, len(tensor.data)) for name, tensor in files.read(tmp_path / "out.bin").tensors.items()
    }
    assert {tensor["name"]: (tensor["offset"], tensor["bytes"]) for tensor in plan["tensors"]} == places


@pytest.mark.parametrize(
    ("shape", "to", "outtype", "message"),
    [
        (PLAIN, "ggjt-v3", "bf16", "GGJT v3 cannot hold bf16"),
        (PLAIN, "ggjt-v2", "q6_k", "GGJT v2 cannot hold q6_k"),
        (GROUPED, "ggjt-v1", "q4_0", "GGJT v1 knows no grouped heads"),
        (LlamaShape(n_ff=160, n_head_kv=4), "ggjt", "q4_0", "GGJT does not store the feed-forward size"),
    ],
)
def test_refused_before_anything_is_written(
    shape: LlamaShape, to: str, outtype: str, message: str, tmp_path: Path
) -> None:
    write_hf(tmp_path / "model", shape)
    before = sorted(tmp_path.rglob("*"))
    done = run("fastconv", "convert", tmp_path / "model", "--to", to, "--outtype", outtype)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
