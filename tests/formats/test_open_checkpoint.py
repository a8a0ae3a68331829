"""Which file is opened for which path, and what is said where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastconv.checkpoint import open_checkpoint
from fastconv.errors import CheckpointError
from tests.formats.format_builders import ggjt_bytes, gguf_bytes, gguf_record

W = {"w": torch.ones(2, 2)}


def refusal(path: Path | str) -> str:
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    save_file(W, tmp_path / "a")
    torch.save(W, tmp_path / "b")
    (tmp_path / "c").write_bytes(gguf_bytes(records=[gguf_record("w", [4], 0, 0)], data=bytes(16)))
    (tmp_path / "d").write_bytes(ggjt_bytes([("tok_embeddings.weight", [32, 1], 0, bytes(128))]))
    torch.save(W, tmp_path / "e", _use_new_zipfile_serialization=False)
    formats = {"a": "safetensors", "b": "torch", "c": "gguf", "d": "ggjt", "e": "torch"}
    for suffix in (".safetensors", ".bin", ".pth", ".gguf", ".x"):
        for name, expected in formats.items():
            shutil.copy(tmp_path / name, tmp_path / f"copy{suffix}")
            assert open_checkpoint(tmp_path / f"copy{suffix}").format == expected


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "consolidated.00.pth", "lit_model.pth"])
def test_folder_with_one_file(tmp_path: Path, name: str) -> None:
    (save_file if name.endswith("safetensors") else torch.save)(W, tmp_path / name)
    for other in ("training_args.bin", "optimizer.pt", "adapter_model.safetensors", "rng_state_0.pth"):
        (tmp_path / other).write_bytes(b"not weights")
    opened = open_checkpoint(tmp_path)
    assert opened.files == (str(tmp_path / name),)
    assert (opened.config, list(opened.tensors)) == ({}, ["w"])
    assert open_checkpoint(str(tmp_path) + os.sep).tensors.keys() == W.keys()


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(W, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"a": 1}')
    monkeypatch.chdir(tmp_path)
    for path in (".", "model.safetensors"):
        assert open_checkpoint(path).config == {"a": 1}


def test_params_json_where_there_is_no_config_json(tmp_path: Path) -> None:
    save_file(W, tmp_path / "model.safetensors")
    (tmp_path / "params.json").write_text('\ufeff{"dim": 2}', encoding="utf-8")
    assert open_checkpoint(tmp_path).config == {"dim": 2}
    (tmp_path / "config.json").write_text('{"hidden_size": 2}')
    assert open_checkpoint(tmp_path).config == {"hidden_size": 2}
    (tmp_path / "config.json").write_text("{")
    assert "config.json: is not valid JSON" in refusal(tmp_path)


def test_nothing_to_open(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent") == f"{tmp_path / 'absent'}: does not exist"
    assert "holds no weights: found an empty folder, expected model*.safetensors" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    refused = refusal(tmp_path)
    assert "holds no weights: found adapter_model.bin, config.json, expected model*.safetensors" in refused
    assert refused.endswith("; this is an adapter: give it with --lora")
    torch.save(W, tmp_path / "a.pth")
    torch.save(W, tmp_path / "b.pt")
    assert "holds several weight files: found a.pth, b.pt; name the one to read" in refusal(tmp_path)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    assert "is a Git LFS pointer, not the file itself; run git lfs pull" in refusal(file)
    file.write_bytes(b"<!DOCTYPE html>")
    assert "is no checkpoint: found first bytes b'<!DOCTYP', expected safetensors, PyTorch" in refusal(file)
    file.write_bytes(b"")
    assert "is no checkpoint: found an empty file" in refusal(file)
    assert "does not exist" in refusal("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    assert "is not a regular file" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    save_file(W, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").chmod(0)
    assert "cannot be opened (Permission denied)" in refusal(tmp_path)


def test_heavy_packages_are_not_imported(tmp_path: Path) -> None:
    save_file(W, tmp_path / "model.safetensors")
    code = "import sys; from fastconv.checkpoint import open_checkpoint; open_checkpoint(sys.argv[1]);"
    code += "print({'torch', 'gguf', 'safetensors', 'transformers', 'pickle'} & set(sys.modules) - {'pickle'})"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
