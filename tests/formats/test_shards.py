"""Folders of several files: safetensors and PyTorch shards, Meta's parts, and what is missing, surplus or ambiguous."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fastconv.checkpoint import open_checkpoint
from fastconv.errors import CheckpointError
from tests.formats.format_builders import gathered

A, B, C = (torch.full((2, 3), float(i)) for i in range(3))
SHARDS = {"model-00001-of-00002.safetensors": {"b": B, "a": A}, "model-00002-of-00002.safetensors": {"c": C}}
INDEX = {"metadata": {"total_size": 72}, "weight_map": {name: file for file, ts in SHARDS.items() for name in ts}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two safetensors shards with their index."""
    for name, tensors in SHARDS.items():
        save_file(tensors, tmp_path / name)
    write_index(tmp_path)
    return tmp_path


def write_index(folder: Path, **changes: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(INDEX | changes))


def values(path: Path) -> dict[str, float]:
    return {name: float(gathered(tensor)[0, 0]) for name, tensor in open_checkpoint(path).tensors.items()}


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_shards_with_and_without_index_and_by_one_name(folder: Path) -> None:
    (folder / "config.json").write_text('{"hidden_size": 3}')
    expected = {"a": 0, "b": 1, "c": 2}
    assert values(folder) == expected
    assert values(folder / "model-00002-of-00002.safetensors") == expected
    (folder / "model.safetensors.index.json").unlink()
    assert values(folder) == expected
    opened = open_checkpoint(folder)
    assert list(opened.tensors) == ["a", "b", "c"]
    assert [os.path.basename(file) for file in opened.files] == list(SHARDS)
    assert (opened.config, opened.directory) == ({"hidden_size": 3}, str(folder))


def test_pytorch_shards(tmp_path: Path) -> None:
    for name, tensors in SHARDS.items():
        torch.save(tensors, tmp_path / name.replace("model", "pytorch_model").replace("safetensors", "bin"))
    assert values(tmp_path) == {"a": 0, "b": 1, "c": 2}
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00001-of-00002.bin"}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map | {"c": "pytorch_model-00002-of-00002.bin"}}))
    assert open_checkpoint(tmp_path).format == "torch"
    index.write_text(json.dumps({"weight_map": weight_map | {"c": "pytorch_model-00001-of-00002.bin"}}))
    assert "tensor c: is in the index but not in its shard" in refusal(tmp_path)


def test_links_in_the_folder_are_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As in the cache of Hugging Face's hub."""
    blobs = tmp_path_factory.mktemp("blobs")
    for file in folder.glob("*.safetensors"):
        file.rename(blobs / file.name)
        file.symlink_to(blobs / file.name)
    assert values(folder) == {"a": 0, "b": 1, "c": 2}


def test_safetensors_are_preferred(folder: Path) -> None:
    torch.save({"z": A}, folder / "pytorch_model.bin")
    torch.save({"z": A}, folder / "consolidated.00.pth")
    assert open_checkpoint(folder).format == "safetensors"


def test_shard_missing(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "shard model-00002-of-00002.safetensors is missing" in refusal(folder)
    (folder / "model.safetensors.index.json").unlink()
    assert "shard model-00002-of-00002.safetensors is missing: found 1 shards, expected 2" in refusal(folder)


def test_shard_numbered_beyond_the_count(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    save_file({"d": A}, folder / "model-00003-of-00002.safetensors")
    assert "holds shards that 2 shards cannot have" in refusal(folder)


def test_two_sets_of_shards(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    save_file({"d": A}, folder / "model-00001-of-00003.safetensors")
    assert "holds shards of 2 different sets" in refusal(folder)


def test_whole_file_beside_shards(folder: Path) -> None:
    save_file({"a": A}, folder / "model.safetensors")
    assert "holds both model.safetensors and shards of it" in refusal(folder)
    assert values(folder / "model.safetensors") == {"a": 0}


def test_tensor_missing_surplus_misplaced_twice(folder: Path) -> None:
    first, second = SHARDS
    write_index(folder, weight_map=INDEX["weight_map"] | {"d": second})
    assert "tensor d: is in the index but not in its shard" in refusal(folder)
    write_index(folder, weight_map={"a": first, "c": second})
    assert "tensor b: is not where the index says" in refusal(folder)
    assert "expected no such tensor" in refusal(folder)
    write_index(folder, weight_map=INDEX["weight_map"] | {"b": second})
    assert f"tensor b: is not where the index says: found {first}, expected {second}" in refusal(folder)
    (folder / "model.safetensors.index.json").unlink()
    save_file({"a": A, "c": C}, folder / second)
    assert f"{second}: tensor a: is also in {first}" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", ".", "sub\\model", "C:model", "a\0b"],
)
def test_index_cannot_lead_out_of_its_folder(folder: Path, name: str) -> None:
    write_index(folder, weight_map={"a": name})
    assert "shard lies outside the folder" in refusal(folder)


BAD_INDEX = {
    "not JSON": ("{", "is not valid JSON"),
    "not UTF-8": (b"\xff", "is not valid JSON"),
    "nested without end": ("[" * 100_000, "is not valid JSON"),
    "a list": ("[]", "is not a JSON object: found list"),
    "no weight_map": ("{}", "has no weight_map"),
    "empty weight_map": ('{"weight_map": {}}', "has no weight_map"),
    "weight_map a list": ('{"weight_map": ["a"]}', "has no weight_map"),
    "file name a number": ('{"weight_map": {"a": 1}}', "tensor a: shard name is not a string: found 1"),
    "file name empty": ('{"weight_map": {"a": ""}}', "tensor a: shard name is not a string"),
}


@pytest.mark.parametrize("case", BAD_INDEX)
def test_malformed_index(folder: Path, case: str) -> None:
    raw, message = BAD_INDEX[case]
    (folder / "model.safetensors.index.json").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    assert message in refusal(folder)


def test_shards_of_two_formats(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "model-00001-of-00002.safetensors")
    torch.save({"b": B}, tmp_path / "model-00002-of-00002.safetensors")
    assert "shards are of different formats" in refusal(tmp_path)


def test_meta_parts(tmp_path: Path) -> None:
    for i, tensor in enumerate((A, B, C)):
        torch.save({"tok_embeddings.weight": tensor, "norm.weight": A}, tmp_path / f"consolidated.{i:02d}.pth")
    (tmp_path / "params.json").write_text('{"dim": 9}')
    for path in (tmp_path, tmp_path / "consolidated.01.pth"):
        opened = open_checkpoint(path)
        assert [float(gathered(part["tok_embeddings.weight"])[0, 0]) for part in opened.parts] == [0, 1, 2]
        assert opened.tensors == opened.parts[0]
        assert (opened.format, opened.config, len(opened.files)) == ("torch", {"dim": 9}, 3)
    (tmp_path / "consolidated.01.pth").unlink()
    assert "part consolidated.01.pth is missing: found consolidated.02.pth" in refusal(tmp_path)
    torch.save({"tok_embeddings.weight": B}, tmp_path / "consolidated.01.pth")
    assert "consolidated.01.pth: tensor norm.weight: is missing from this part" in refusal(tmp_path)
    torch.save({"tok_embeddings.weight": B, "norm.weight": A, "x": A}, tmp_path / "consolidated.01.pth")
    assert "consolidated.01.pth: tensor x: is missing from the first part" in refusal(tmp_path)
    (tmp_path / "consolidated.00.pth").unlink()
    assert "part consolidated.00.pth is missing" in refusal(tmp_path)
