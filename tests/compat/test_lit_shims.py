"""The command lines of Lit-GPT's converters of 2023: what they were given and the files they wrote."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fastconv import convert
from tests.models import LlamaShape, write_hf

NAME = "tiny-llama-1.1b"


def module(name: str) -> ModuleType:
    return importlib.import_module(f"fastconv.compat.{name}")


@pytest.mark.parametrize(
    ("arguments", "translated"),
    [
        (
            "--checkpoint_name lit_model_finetuned.pth --out_dir out/full --model_name N",
            "out/full/lit_model_finetuned.pth --outfile out/full/lit_model_finetuned.bin --model-name N",
        ),
        (
            "--checkpoint_name lit_model_finetuned.pth --checkpoint_dir out/full",
            "out/full/lit_model_finetuned.pth --outfile out/full/lit_model_finetuned.bin",
        ),
        ("--checkpoint_path a/lit.pth --output_path b/out.bin", "a/lit.pth --outfile b/out.bin"),
        (
            "--checkpoint_path a/lit.pth --output_path b/out.bin --config_path a/lit_config.json",
            "a/lit.pth --outfile b/out.bin",
        ),
    ],
)
def test_convert_lit_checkpoint(arguments: str, translated: str) -> None:
    found = module("convert_lit_checkpoint").translate(arguments.split())
    assert [word for word in found if word not in ("--to", "hf", "--format", "bin", "--overwrite")] == [
        "convert",
        *translated.split(),
    ]


CONSTANTS = "--lora-alpha 16 --lora-r 8 --lora-qkv q,v --lora-layout contiguous"


@pytest.mark.parametrize(
    ("arguments", "translated"),
    [
        (
            "--model_name N --checkpoint_path c/lit_model.pth --lora_path l/x.pth --merge_lora True --save_merge True",
            "c/lit_model.pth --outfile c/converted_merged_lora_model.bin --model-name N --lora l/x.pth",
        ),
        (
            "--model_name N --checkpoint_path c/merged.pth --lora_config_path l/lit_lora_config.json",
            "c/merged.pth --outfile c/converted_merged_lora_model.bin --model-name N",
        ),
        (
            "--checkpoint_dir c --out_dir o --lora_path l/x.pth --merge_lora True",
            f"c/lit_model.pth --outfile c/converted_merged_lora_model.bin --lora l/x.pth {CONSTANTS}",
        ),
        (
            "--checkpoint_dir c --out_dir o --lora_path l/x.pth --merge true --precision bf16-true",
            f"c/lit_model.pth --outfile c/converted_merged_lora_model.bin --lora l/x.pth {CONSTANTS}",
        ),
    ],
)
def test_convert_lit_lora_checkpoint(arguments: str, translated: str) -> None:
    found = module("convert_lit_lora_checkpoint").translate(arguments.split())
    assert [word for word in found if word not in ("--to", "hf", "--format", "bin", "--overwrite")] == [
        "convert",
        *translated.split(),
    ]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("convert_lit_checkpoint", ""),
        ("convert_lit_checkpoint", "--checkpoint_path a.pth"),
        ("convert_lit_checkpoint", "--checkpoint_name a.pth"),
        ("convert_lit_lora_checkpoint", "--lora_path a.pth"),
        ("convert_lit_lora_checkpoint", "--checkpoint_dir a --checkpoint_path b.pth"),
        ("convert_lit_lora_checkpoint", "--checkpoint_dir a --merge_lora True"),
        ("convert_lit_lora_checkpoint", "--checkpoint_dir a --merge_lora perhaps"),
    ],
)
def test_wrong_usage(name: str, arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        module(name).main(arguments.split())
    assert raised.value.code == 2
    assert name in capsys.readouterr().err


def write_lit(folder: Path) -> dict[str, Any]:
    """A Lit-GPT folder of 2023. Returns the weights in Hugging Face's names."""
    tensors = write_hf(folder.parent / "hf", LlamaShape())
    convert(folder.parent / "hf", folder, to="litgpt", litgpt_layout="interleaved")
    (folder / "model_config.yaml").unlink()
    return tensors


def test_a_finetuned_checkpoint(tmp_path: Path) -> None:
    import torch

    tensors = write_lit(tmp_path / "out")
    (tmp_path / "out" / "lit_model.pth").rename(tmp_path / "out" / "lit_model_finetuned.pth")
    arguments = ["--checkpoint_name", "lit_model_finetuned.pth", "--out_dir", str(tmp_path / "out")]
    assert module("convert_lit_checkpoint").main(arguments) == 0
    found = torch.load(tmp_path / "out" / "lit_model_finetuned.bin", weights_only=True)
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(found[name].float().numpy(), values)
    assert module("convert_lit_checkpoint").main(arguments) == 0  # replaced, as ever
    assert module("convert_lit_checkpoint").main([*arguments, "--model_name", NAME]) == 1


def test_a_lora(tmp_path: Path) -> None:
    """With its constants: r 8, alpha 16, query and value."""
    import torch

    tensors = write_lit(tmp_path / "base")
    name = "transformer.h.0.mlp.proj"
    a, b = torch.randn(8, 160), torch.randn(64, 8)
    torch.save({f"{name}.lora_A": a, f"{name}.lora_B": b}, tmp_path / "lora.pth")
    arguments = [
        "--checkpoint_dir",
        str(tmp_path / "base"),
        "--out_dir",
        "o",
        "--lora_path",
        str(tmp_path / "lora.pth"),
    ]
    assert module("convert_lit_lora_checkpoint").main([*arguments, "--merge_lora", "True"]) == 0
    found = torch.load(tmp_path / "base" / "converted_merged_lora_model.bin", weights_only=True)
    changed = "model.layers.0.mlp.down_proj.weight"
    expected = torch.tensor(tensors[changed]).double() + 2 * (b.double() @ a.double())
    torch.testing.assert_close(found[changed].double(), expected, atol=1e-5, rtol=2**-8)
    (tmp_path / "lit_lora_config.json").write_text(json.dumps({"config": {"r": 8, "alpha": 8}}))
    assert module("convert_lit_lora_checkpoint").main([*arguments, "--merge_lora", "True"]) == 0
    found = torch.load(tmp_path / "base" / "converted_merged_lora_model.bin", weights_only=True)
    expected = torch.tensor(tensors[changed]).double() + b.double() @ a.double()
    torch.testing.assert_close(found[changed].double(), expected, atol=1e-5, rtol=2**-8)
