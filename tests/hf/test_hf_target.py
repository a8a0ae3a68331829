"""--to hf: what transformers and PEFT make of the folder, whatever the source; nothing half-done under a final name."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import convert
from fastconv.errors import (
    AdapterError,
    ArchitectureError,
    FastconvError,
    NonFiniteError,
    OutputError,
    PlanError,
    UsageError,
)
from tests.models import META_NAMES, LlamaShape, encoded, random_tensors, write_hf, write_safetensors


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(
    "options",
    [{}, {"shard_size": "100KB"}, {"weights_format": "bin"}, {"weights_format": "bin", "shard_size": 100_000}],
    ids=lambda options: "-".join(map(str, options.values())) or "plain",
)
def test_the_same_model(dtype: str, options: dict[str, Any], tmp_path: Path) -> None:
    tensors = write_hf(tmp_path / "in", dtype=dtype, shards=2)
    (tmp_path / "in" / "generation_config.json").write_text("{}")
    convert(tmp_path / "in", tmp_path / "out", to="hf", **options)
    model = loaded(tmp_path / "out")
    assert str(model.dtype) == {"F32": "torch.float32", "F16": "torch.float16", "BF16": "torch.bfloat16"}[dtype]
    state = model.state_dict()
    for name, values in tensors.items():
        stored = np.frombuffer(encoded(values, dtype), {"F32": "<u4"}.get(dtype, "<u2"))
        found = state[name].contiguous().view({"F32": __import__("torch").int32}.get(dtype, __import__("torch").int16))
        np.testing.assert_array_equal(found.numpy().reshape(-1).view(stored.dtype), stored)
    for name in ("config.json", "generation_config.json", "tokenizer.model"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()
    for archive in (tmp_path / "out").glob("*.bin"):
        assert zipfile.ZipFile(archive).testzip() is None


def test_shards_and_their_index(tmp_path: Path) -> None:
    from safetensors import safe_open

    tensors = write_hf(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", to="hf", shard_size=90_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(2 * values.size for values in tensors.values())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    for file in files:
        assert (tmp_path / "out" / file).stat().st_size < 90_000 + 4096
        with safe_open(tmp_path / "out" / file, "np") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert {name for name, where in index["weight_map"].items() if where == file} == set(opened.keys())


@pytest.mark.parametrize("suffix", ["safetensors", "bin", "pth"])
def test_one_file_of_weights(suffix: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    tensors = write_hf(tmp_path / "in")
    target = tmp_path / f"weights.{suffix}"
    convert(tmp_path / "in", target, to="hf", outtype="f32")
    read = load_file if suffix == "safetensors" else lambda path: torch.load(path, weights_only=True, mmap=True)
    found = read(target)
    assert {name: tensor.numpy().tolist() for name, tensor in found.items()} == {
        name: values.tolist() for name, values in tensors.items()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in", target.name])


def test_outtype_says_so_in_the_config(tmp_path: Path) -> None:
    write_hf(tmp_path / "in", LlamaShape(extra={"torch_dtype": "bfloat16"}))
    convert(tmp_path / "in", tmp_path / "out-{type}", to="hf", outtype="f16,f32")
    for name, dtype in (("f16", "float16"), ("f32", "float32")):
        config = json.loads((tmp_path / f"out-{name}" / "config.json").read_text())
        assert config["torch_dtype"] == dtype
        assert str(loaded(tmp_path / f"out-{name}").dtype) == f"torch.{dtype}"


def peft_adapter(model: Any, directory: Path, **config: Any) -> Path:
    from tests.adapter.peft_models import trained_adapter

    return trained_adapter(model, directory, **config)


@pytest.mark.parametrize("config", [{}, {"use_dora": True}, {"target_modules": ["lm_head", "q_proj"]}])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
def test_instead_of_merge_and_unload(config: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    write_hf(tmp_path / "in", LlamaShape(tied=tied), dtype="F32")
    adapter = peft_adapter(loaded(tmp_path / "in"), tmp_path, **config)
    expected = PeftModel.from_pretrained(loaded(tmp_path / "in"), adapter)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        wanted = expected(tokens).logits
        convert(tmp_path / "in", tmp_path / "out", to="hf", lora=adapter)
        found = loaded(tmp_path / "out")(tokens).logits
    if tied and "target_modules" in config:  # the head alone: the embedding stays
        assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def gpt2(directory: Path, **keywords: Any) -> Any:
    """A family without a table, whose linear layers store their weights transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=40, n_positions=16, **keywords)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(directory)
    return model


def test_families_without_a_table(tmp_path: Path) -> None:
    import torch

    model = gpt2(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", to="hf")
    found = loaded(tmp_path / "out").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target_modules": ["c_proj"], "fan_in_fan_out": True}, "store their weights transposed"),
        ({"target_modules": ["wte"]}, "may be shared with another tensor"),
        ({"target_modules": ["wpe"]}, "is no embedding"),
    ],
)
def test_adapters_that_need_a_table(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    adapter = peft_adapter(gpt2(tmp_path / "in"), tmp_path, **config)
    with pytest.raises(AdapterError, match=message):
        convert(tmp_path / "in", tmp_path / "out", to="hf", lora=adapter)


@pytest.mark.parametrize("to", ["hf", "litgpt"])
@pytest.mark.parametrize(
    ("odd", "shape", "expected"),
    [
        ("lm_head.weight", (310, 64), "found [310, 64], expected 320 rows, as model.embed_tokens.weight has"),
        ("lm_head.weight", (320,), "found [320], expected 320 rows, as model.embed_tokens.weight has"),
        ("model.embed_tokens.weight", (320,), "found [320], expected a matrix"),
    ],
)
def test_rows_for_tokens_of_families_without_a_table(
    odd: str, shape: tuple[int, ...], expected: str, to: str, tmp_path: Path
) -> None:
    write_hf(tmp_path / "m", LlamaShape(extra={"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}))
    tensors = random_tensors(LlamaShape()) | {odd: np.zeros(shape, np.float32)}
    write_safetensors(tmp_path / "m" / "model.safetensors", tensors, "F32")
    with pytest.raises(ArchitectureError) as raised:
        convert(tmp_path / "m", tmp_path / "out", to=to)
    where = f"{tmp_path / 'm' / 'model.safetensors'}: tensor {odd}: has not one row for each token"
    assert str(raised.value) == f"{where}: {expected}; download or copy the checkpoint again"


def test_tensors_that_are_no_floats_are_copied(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    state = {
        "a.weight": torch.randn(3, 4),
        "a.steps": torch.tensor(2**40),
        "a.mask": torch.tensor([True, False, True]),
        "a.double": torch.randn(5, dtype=torch.float64),
        "a.ids": torch.arange(6, dtype=torch.int32).reshape(2, 3),
    }
    (tmp_path / "in").mkdir()
    save_file(state, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_text(json.dumps({"architectures": ["Other"], "model_type": "other"}))
    convert(tmp_path / "in", tmp_path / "out", to="hf")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    convert(tmp_path / "in", tmp_path / "bin", to="hf", weights_format="bin", outtype="f16")
    found = torch.load(tmp_path / "bin" / "pytorch_model.bin", weights_only=True)
    assert found["a.weight"].dtype == found["a.double"].dtype == torch.float16
    assert all(torch.equal(found[name], state[name]) for name in ("a.steps", "a.mask", "a.ids"))


def test_from_meta(tmp_path: Path) -> None:
    """Names, rows of rotating heads and config.json of Meta's own files."""
    import torch

    tensors = random_tensors(LlamaShape())
    names = META_NAMES | {"model.layers": "layers"}
    state = {}
    for name, values in tensors.items():
        meta = name
        for ours, theirs in names.items():
            meta = meta.replace(ours, theirs)
        if ".wq." in meta or ".wk." in meta:
            values = values.reshape(-1, 2, 8, 64).swapaxes(1, 2).reshape(-1, 64)
        state[meta] = torch.tensor(np.ascontiguousarray(values))
    (tmp_path / "in").mkdir()
    torch.save(state, tmp_path / "in" / "consolidated.00.pth")
    params = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": -1}
    (tmp_path / "in" / "params.json").write_text(json.dumps(params))
    convert(tmp_path / "in", tmp_path / "out", to="hf")
    found = loaded(tmp_path / "out").state_dict()
    for name, values in tensors.items():
        np.testing.assert_array_equal(found[name].float().numpy(), values)


def quantized(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["Other"], "quantization_config": {"bits": 4}}
    (folder / "config.json").write_text(json.dumps(config))


REFUSED: dict[str, tuple[Any, dict[str, Any], type[FastconvError], str]] = {
    "blocks": (None, {"outtype": "q4_0"}, PlanError, "hold plain numbers"),
    "format": (None, {"weights_format": "zip"}, UsageError, "unknown --format"),
    "format of another target": (None, {"to": "gguf", "weights_format": "bin"}, UsageError, "--format is for --to hf"),
    "size": (None, {"shard_size": "5 apples"}, UsageError, "is no size"),
    "no size": (None, {"shard_size": 0}, UsageError, "--shard-size is out of range"),
    "quantized": (quantized, {}, ArchitectureError, "is a quantized model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, tmp_path: Path) -> None:
    change, options, kind, message = REFUSED[case]
    write_hf(tmp_path / "in")
    if change is not None:
        change(tmp_path / "in")
    with pytest.raises(kind, match=message):
        convert(tmp_path / "in", tmp_path / "out", **({"to": "hf"} | options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    tensors = random_tensors(LlamaShape())
    tensors["model.norm.weight"][3] = np.nan
    write_hf(tmp_path / "in", tensors=tensors)
    for existing in (False, True):
        if existing:
            (tmp_path / "out").mkdir()
        with pytest.raises(NonFiniteError):
            convert(tmp_path / "in", tmp_path / "out", to="hf")
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
        assert not list(tmp_path.glob(".*"))


def test_folders_that_exist(tmp_path: Path) -> None:
    """Files there are replaced on demand only; weights of another run are never mixed with these."""
    write_hf(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    convert(tmp_path / "in", tmp_path / "out", to="hf")
    with pytest.raises(OutputError, match="exists already"):
        convert(tmp_path / "in", tmp_path / "out", to="hf")
    convert(tmp_path / "in", tmp_path / "out", to="hf", overwrite=True, outtype="f32")
    with pytest.raises(OutputError, match=r"holds other weights: found model.safetensors"):
        convert(tmp_path / "in", tmp_path / "out", to="hf", overwrite=True, shard_size="100KB")
    with pytest.raises(OutputError, match=r"is an input of this run|holds other weights"):
        convert(tmp_path / "in", tmp_path / "in", to="hf", overwrite=True)
    with pytest.raises(OutputError, match="is no folder"):
        convert(tmp_path / "in", tmp_path / "out" / "notes.txt", to="hf", overwrite=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_large_offsets_and_odd_sizes(tmp_path: Path) -> None:
    """A model whose tensors are not multiples of anything, in all formats."""
    import torch

    values = {f"t{i}": np.arange(i, dtype=np.float32).reshape(1, -1) for i in (1, 3, 17, 1001)}
    (tmp_path / "in").mkdir()
    write_safetensors(tmp_path / "in" / "model.safetensors", values, "F32")
    (tmp_path / "in" / "config.json").write_text(json.dumps({"architectures": ["Other"]}))
    convert(tmp_path / "in", tmp_path / "out", to="hf", weights_format="bin")
    found = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    assert {name: tensor.numpy().tolist() for name, tensor in found.items()} == {
        name: array.tolist() for name, array in values.items()
    }
