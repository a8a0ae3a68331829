"""LoRAs of every era against LitGPT's own merge, against its forward pass, and against float64."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import convert
from fastconv.errors import AdapterError, FastconvError, UsageError
from tests.litgpt.conftest import BEFORE, LORAS, TODAY, TOKENS, LitGPT, Zoo, lit_families, loras_of
from tests.litgpt.families import FAMILIES
from tests.litgpt.test_families import lit_copy, logits_of, tensors_of

CASES = [
    (family, version, lora)
    for version in (TODAY, BEFORE)
    for family in lit_families(version)
    for lora in loras_of(family)
]


def lora_copy(zoo: Zoo, family: str, version: str, lora: str, folder: Path) -> Path:
    folder.mkdir()
    for name in ("lit_model.pth.lora", "hyperparameters.yaml"):
        shutil.copy(zoo.lora(family, version, lora) / name, folder)
    return folder


@pytest.mark.parametrize(("family", "version", "lora"), CASES)
def test_merge_is_litgpts(zoo: Zoo, family: str, version: str, lora: str, tmp_path: Path) -> None:
    """Onto Lit-GPT's checkpoint, and onto Hugging Face's of the same model: what LitGPT merges in f32."""
    import torch

    merged = lit_copy(zoo, family, version, tmp_path / "merged", "config.json")
    shutil.copy(zoo.lora(family, version, lora) / "lit_model.pth", merged)
    convert(merged, tmp_path / "expected", to="hf")
    expected = tensors_of(tmp_path / "expected")
    trained = lora_copy(zoo, family, version, lora, tmp_path / "lora")
    base = lit_copy(zoo, family, version, tmp_path / "base", "config.json")
    changed = 0
    for source, out in ((base, tmp_path / "a"), (zoo.hf(family), tmp_path / "b")):
        result = convert(source, out, to="hf", lora=trained)
        found = tensors_of(out)
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], atol=2e-7, rtol=1e-6, msg=name)
        changed = sum(not torch.equal(found[name], before) for name, before in tensors_of(zoo.hf(family)).items())
        n_stored = len(torch.load(trained / "lit_model.pth.lora")["model"])
        assert result.adapters[0].n_tensors == n_stored
        assert result.adapters[0].scales == (7 / 3,)
    assert changed == len(result.adapters[0].targets) > 0


@pytest.mark.parametrize("family", ["llama3", "gemma"])
def test_a_trained_head_of_a_tied_model(zoo: Zoo, litgpt: dict[str, LitGPT], family: str, tmp_path: Path) -> None:
    """Its embedding stays: the logits are those of LitGPT's unmerged model."""
    import torch

    base, lora = zoo.lit(family, TODAY), tmp_path / "lora"
    hyper = LORAS["everything"]
    litgpt[TODAY].run(
        [
            {"do": "train_lora", "directory": str(base), "output": str(lora), "seed": 5, "hyper": hyper},
            {"do": "logits", "directory": str(base), "output": str(tmp_path / "logits"), "tokens": TOKENS}
            | {"lora": str(lora)},
        ]
    )
    convert(zoo.hf(family), tmp_path / "hf", to="hf", lora=lora)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["tie_word_embeddings"] is False
    torch.testing.assert_close(logits_of(tmp_path / "hf"), torch.load(tmp_path / "logits"), atol=1e-5, rtol=1e-5)


# Rows of each part in an interleaved weight of H heads in G groups of size hs, written as loops over heads.
def interleaved_rows(part: str, n_head: int, n_groups: int, head_size: int) -> list[int]:
    q = n_head // n_groups
    rows = []
    for group in range(n_groups):
        first = {"q": 0, "k": q, "v": q + 1}[part]
        for head in range(first, first + (q if part == "q" else 1)):
            rows += [(group * (q + 2) + head) * head_size + d for d in range(head_size)]
    return rows


def contiguous_rows(part: str, n_head: int, n_groups: int, head_size: int) -> list[int]:
    sizes = {"q": n_head * head_size, "k": n_groups * head_size, "v": n_groups * head_size}
    begin = sum(sizes[other] for other in "qkv"[: "qkv".index(part)])
    return list(range(begin, begin + sizes[part]))


def float64_merge(base: np.ndarray, a: np.ndarray, b: np.ndarray, parts: str, layout: str, heads: Any) -> np.ndarray:
    """The interleaved weight after a merge as the code of that time does it: row by row."""
    merged = base.astype(np.float64)
    place = interleaved_rows if layout == "interleaved" and parts != "qkv" else contiguous_rows
    rows = [row for part in parts for row in place(part, *heads)]
    sizes = [len(place(part, *heads)) for part in parts]
    if layout == "chunked":
        sizes = [len(rows) // len(parts)] * len(parts)
    of_row = [index for index, size in enumerate(sizes) for _ in range(size)]
    rank = b.shape[1]
    for i, row in enumerate(rows):
        factors = a[of_row[i] * rank : (of_row[i] + 1) * rank].astype(np.float64)
        merged[row] += 16 / rank * (b[i].astype(np.float64) @ factors)
    return merged


@pytest.mark.parametrize("family", ["llama_grouped", "llama_full", "llama_single", "gpt_neox", "falcon_40b", "phi"])
@pytest.mark.parametrize("parts", ["q", "k", "v", "qk", "qv", "kv", "qkv"])
@pytest.mark.parametrize("layout", ["contiguous", "interleaved", "chunked"])
def test_merge_of_2023_is_right_in_float64(zoo: Zoo, family: str, parts: str, layout: str, tmp_path: Path) -> None:
    """A LoRA without any settings beside it, into a base that has been downloaded again since."""
    import torch

    heads = FAMILIES[family].heads
    n_embd = FAMILIES[family].n_embd
    n_rows = sum(len(contiguous_rows(part, *heads)) for part in parts)
    rng = np.random.default_rng(1)
    a = rng.normal(0, 0.1, (4 * len(parts), n_embd)).astype(np.float32)
    b = rng.normal(0, 0.1, (n_rows, 4)).astype(np.float32)
    name = "transformer.h.1.attn.attn"
    lora = tmp_path / "lit_model_lora_finetuned.pth"
    torch.save({"model": {f"{name}.lora_A": torch.tensor(a), f"{name}.lora_B": torch.tensor(b)}}, lora)
    options: dict[str, Any] = {"lora_alpha": 16, "lora_qkv": ",".join(parts), "lora_layout": layout}
    if layout == "chunked" and n_rows % len(parts):
        with pytest.raises(AdapterError, match="equal chunks"):
            convert(zoo.lit(family, TODAY) / "lit_model.pth", tmp_path / "out", to="hf", lora=lora, **options)
        return
    convert(zoo.lit(family, TODAY) / "lit_model.pth", tmp_path / "out", to="hf", lora=lora, **options)
    stored = torch.load(zoo.lit(family, BEFORE) / "lit_model.pth", weights_only=False)[f"{name}.weight"].numpy()
    expected = float64_merge(stored, a, b, parts, layout, heads)
    found = tensors_of(tmp_path / "out")
    if family in ("gpt_neox", "falcon_40b"):
        pairs = [(next(n for n in found if ".1." in n and n.endswith("query_key_value.weight")), expected)]
    else:
        prefix = "model.layers.1.self_attn."
        pairs = [(f"{prefix}{part}_proj.weight", expected[interleaved_rows(part, *heads)]) for part in "qkv"]
    before = tensors_of(zoo.hf(family))
    for tensor, wanted in pairs:
        np.testing.assert_allclose(found[tensor].numpy(), wanted, rtol=3e-6, atol=3e-8)
        before.pop(tensor)
    for tensor, wanted in before.items():
        assert torch.equal(found[tensor], wanted)


def test_settings_of_the_second_draft(zoo: Zoo, tmp_path: Path) -> None:
    """lit_lora_config.json says everything, the placement included."""
    import torch

    name = "transformer.h.0.attn.attn"
    factors = {f"{name}.lora_A": torch.randn(8, 64), f"{name}.lora_B": torch.randn(96, 4)}
    torch.save(factors, tmp_path / "lit_model_lora_finetuned.pth")
    config = {"name": "x", "r": 4, "alpha": 8, "to_query": True, "to_key": False, "to_value": True}
    base = zoo.lit("llama_grouped", BEFORE) / "lit_model.pth"
    options = {"lora_alpha": 8, "lora_qkv": "q,v", "lora_layout": "contiguous"}
    convert(base, tmp_path / "asked", to="hf", lora=tmp_path, **options)
    (tmp_path / "lit_lora_config.json").write_text(json.dumps({"config": config}))
    convert(base, tmp_path / "told", to="hf", lora=tmp_path)
    expected = (tmp_path / "asked" / "model.safetensors").read_bytes()
    assert (tmp_path / "told" / "model.safetensors").read_bytes() == expected


def factors(*modules: str, rank: int = 4, parts: int = 2, rows: int = 96, layout: str = "attn") -> dict[str, Any]:
    import torch

    found = {}
    for module in modules or (f"transformer.h.0.attn.{layout}",):
        is_qkv = ".attn.attn" in module or ".attn.qkv" in module
        found[f"{module}.lora_A"] = torch.ones(rank * (parts if is_qkv else 1), 64)
        found[f"{module}.lora_B"] = torch.ones(rows if is_qkv else 64, rank)
    return found


def without(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(name)}


ASKED: dict[str, Any] = {"lora_alpha": 16, "lora_qkv": "q,v", "lora_layout": "contiguous"}
REFUSED: dict[str, tuple[Any, dict[str, Any], type[FastconvError], str]] = {
    "no alpha": (lambda: factors(), ASKED | {"lora_alpha": None}, AdapterError, "does not say its alpha"),
    "no parts": (lambda: factors(), ASKED | {"lora_qkv": None}, AdapterError, "does not say which of q, k and v"),
    "no layout": (lambda: factors(), ASKED | {"lora_layout": None}, AdapterError, "does not say where its rows lie"),
    "other rank": (lambda: factors(), ASKED | {"lora_r": 8}, AdapterError, "another rank than stated: found 4"),
    "other parts": (lambda: factors(), ASKED | {"lora_qkv": "k,v"}, AdapterError, "does not update the parts"),
    "odd rows": (lambda: factors(rows=97), ASKED | {"lora_qkv": None}, AdapterError, "are no parts of QKV"),
    "four parts": (lambda: factors(parts=4), ASKED, AdapterError, "another shape than a LoRA of QKV"),
    "no B": (lambda: without(factors(), "lora_B"), ASKED, AdapterError, "has no lora_B beside it"),
    "another model": (
        lambda: factors("transformer.h.9.attn.proj", "transformer.h.0.attn.attn"),
        ASKED,
        AdapterError,
        "updates what the model has not got",
    ),
    "another size": (
        lambda: factors("transformer.h.0.mlp.fc_1", "transformer.h.0.attn.attn"),
        ASKED,
        AdapterError,
        "another shape than the model says",
    ),
    "both layouts": (lambda: factors() | factors(layout="qkv"), ASKED, AdapterError, "both layouts of QKV"),
    "two ranks": (
        lambda: factors() | factors("transformer.h.0.attn.proj", rank=2),
        ASKED,
        AdapterError,
        "another rank than the others",
    ),
    "surplus": (
        lambda: factors() | {"transformer.h.0.attn.attn.weight": factors()["transformer.h.0.attn.attn.lora_A"]},
        ASKED,
        AdapterError,
        "is not a tensor of a LoRA",
    ),
    "unknown layout": (lambda: factors(), ASKED | {"lora_layout": "odd"}, UsageError, "unknown --lora-layout"),
    "unknown parts": (lambda: factors(), ASKED | {"lora_qkv": "x"}, UsageError, "unknown --lora-qkv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_known_or_placed(zoo: Zoo, case: str, tmp_path: Path) -> None:
    import torch

    make, options, kind, message = REFUSED[case]
    torch.save({"model": make()}, tmp_path / "lit_model_lora_finetuned.pth")
    with pytest.raises(kind, match=message) as raised:
        convert(zoo.lit("llama_grouped", BEFORE) / "lit_model.pth", tmp_path / "out", to="hf", lora=tmp_path, **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_merged_checkpoint_with_its_lora(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo.lora("llama_grouped", TODAY, "qv")
    with pytest.raises(AdapterError, match="is merged already into the model beside it"):
        convert(folder, tmp_path / "out", to="hf", lora=folder)
