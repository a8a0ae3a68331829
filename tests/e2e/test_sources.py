"""Every kind of source gives the same tensors as the safetensors checkpoint of the same model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import fastconv
from fastconv.errors import ArchitectureError
from tests import models
from tests.e2e.conftest import gguf_tensors

SHAPE = models.LlamaShape()
# Axis along which Meta's parts are cut; source: transformers, convert_llama_weights_to_hf.py.
META_AXES = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "output": 0, "tok_embeddings": 1}


def tensors_of(source: Path, target: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    fastconv.convert(source, target, outtype="q4_0")
    return gguf_tensors(target)


@pytest.fixture
def reference(tmp_path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    models.write_hf(tmp_path / "reference", SHAPE)
    return tensors_of(tmp_path / "reference", tmp_path / "reference.gguf")


def as_torch(tensors: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values.copy()).to(torch.bfloat16) for name, values in tensors.items()}


def folder_with(tmp_path: Path) -> Path:
    """Configuration and tokenizer, no weights."""
    models.write_hf(tmp_path / "m", SHAPE)
    (tmp_path / "m" / "model.safetensors").unlink()
    return tmp_path / "m"


def test_torch_zip(tmp_path: Path, reference) -> None:
    folder = folder_with(tmp_path)
    torch.save(as_torch(models.random_tensors(SHAPE)), folder / "pytorch_model.bin")
    assert tensors_of(folder, tmp_path / "out.gguf") == reference
    assert tensors_of(folder / "pytorch_model.bin", tmp_path / "single.gguf") == reference


def test_torch_zip_with_views_of_one_storage(tmp_path: Path, reference) -> None:
    folder = folder_with(tmp_path)
    tensors = as_torch(models.random_tensors(SHAPE))
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].t().contiguous().t()
    both = torch.cat([tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]])
    tensors["model.embed_tokens.weight"], tensors["lm_head.weight"] = both.split(SHAPE.n_vocab)
    torch.save(tensors, folder / "pytorch_model.bin")
    assert tensors_of(folder, tmp_path / "out.gguf") == reference


def test_torch_shards(tmp_path: Path, reference) -> None:
    folder = folder_with(tmp_path)
    tensors = as_torch(models.random_tensors(SHAPE))
    names, weight_map = list(tensors), {}
    for index in range(2):
        file = f"pytorch_model-{index + 1:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in names[index::2]}, folder / file)
        weight_map |= dict.fromkeys(names[index::2], file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert tensors_of(folder, tmp_path / "out.gguf") == reference


def test_pre_zip_checkpoint(tmp_path: Path, reference) -> None:
    folder = folder_with(tmp_path)
    tensors = as_torch(models.random_tensors(SHAPE))
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert tensors_of(folder, tmp_path / "out.gguf") == reference


def write_meta(folder: Path, n_parts: int, *, rows: bool = False, wrapped: bool = False) -> None:
    folder.mkdir()
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(n_parts)]
    for name, tensor in as_torch(models.random_tensors(SHAPE)).items():
        stem = name.removesuffix(".weight")
        layer, _, module = stem.removeprefix("model.layers.").partition(".")
        meta = f"layers.{layer}.{models.META_NAMES[module]}" if module in models.META_NAMES else models.META_NAMES[stem]
        heads = {"attention.wq": SHAPE.n_head, "attention.wk": SHAPE.n_head_kv}.get(models.META_NAMES.get(module, ""))
        if heads:
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        axis = META_AXES.get(meta.rpartition(".")[2])
        if meta == "tok_embeddings" and rows:
            axis = 0
        pieces = [tensor] * n_parts if axis is None else tensor.chunk(n_parts, axis)
        for part, piece in zip(parts, pieces, strict=True):
            part[meta + ".weight"] = piece.clone()
    for index, part in enumerate(parts):
        part["rope.freqs"] = torch.ones(8)
        torch.save(part, folder / f"consolidated.{index:02d}.pth")
    params = {"dim": SHAPE.n_embd, "n_layers": SHAPE.n_layer, "n_heads": SHAPE.n_head, "n_kv_heads": SHAPE.n_head_kv}
    params |= {"norm_eps": 1e-5, "vocab_size": -1, "multiple_of": 32}
    (folder / "params.json").write_text(json.dumps({"model": params} if wrapped else params))
    (folder / "tokenizer.model").write_bytes(models.spm_model(SHAPE.n_vocab))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": None}, "dim is not usable: found None, expected a positive integer"),
        ({"dim": 1 << 40}, f"dim is not usable: found {1 << 40}, expected a positive integer below 2147483648"),
        ({"dim": 66}, "dim is not usable: found 66, expected a multiple of n_heads (4)"),
        ({"n_heads": 64, "n_kv_heads": 64}, "dim / n_heads is not usable: found 1, expected an even number"),
        ({"n_kv_heads": 3}, "n_kv_heads is not usable: found 3, expected a divisor of n_heads (4)"),
        ({"n_kv_heads": -1}, "n_kv_heads is not usable: found -1, expected a positive integer below 2147483648"),
        # Before names are made for so many.
        ({"n_layers": (1 << 31) - 1}, "states more layers than the model has tensors: found 2147483647, expected 21"),
        ({"n_layers": 10**300}, f"n_layers is not usable: found {10**300}, expected a positive integer below"),
        ({"n_layers": 2.0}, "n_layers is not usable: found 2.0, expected a positive integer"),
        ({"norm_eps": -1}, "norm_eps is not usable: found -1, expected a positive number"),
        ({"rope_theta": "x"}, "rope_theta is not usable: found 'x', expected a positive number"),
        (
            {"use_scaled_rope": True, "rope_scaling_factor": -1},
            "rope_scaling_factor is not usable: found -1, expected a positive number, which llama3 scaling needs",
        ),
        (
            {"use_scaled_rope": True, "rope_high_freq_factor": 1},
            "rope_high_freq_factor is not usable: found 1, expected more than low_freq_factor (1.0), and that above 0",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_with_params_json_is_told_by_its_keys(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    write_meta(tmp_path / "m", 1)
    path = tmp_path / "m" / "params.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArchitectureError) as raised:
        fastconv.convert(tmp_path / "m", tmp_path / "out.gguf")
    assert str(raised.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("n_parts", [1, 2])
@pytest.mark.parametrize("rows", [False, True], ids=["embedding-columns", "embedding-rows"])
def test_meta(tmp_path: Path, reference, n_parts: int, rows: bool) -> None:
    write_meta(tmp_path / "m", n_parts, rows=rows, wrapped=rows)
    assert tensors_of(tmp_path / "m", tmp_path / "out.gguf") == reference


def test_meta_without_a_part(tmp_path: Path) -> None:
    write_meta(tmp_path / "m", 2)
    (tmp_path / "m" / "consolidated.01.pth").unlink()
    with pytest.raises(ArchitectureError, match="consolidated"):
        fastconv.convert(tmp_path / "m", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
