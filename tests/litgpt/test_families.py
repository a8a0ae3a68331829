"""Every family, both layouts of QKV, both directions: against transformers' own files and LitGPT's own conversions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastconv import convert
from fastconv.verification.verify import verify
from tests.litgpt.conftest import BEFORE, TODAY, TOKENS, LitGPT, Zoo, lit_families
from tests.litgpt.families import FAMILIES
from tests.models import LlamaShape, write_hf

CASES = [(family, version) for version in (TODAY, BEFORE) for family in lit_families(version)]
LAYOUTS = {TODAY: "split", BEFORE: "interleaved"}


def lit_copy(zoo: Zoo, family: str, version: str, folder: Path, *names: str) -> Path:
    """A folder of LitGPT's checkpoint and these files beside it."""
    folder.mkdir()
    for name in ("lit_model.pth", *names):
        shutil.copy(zoo.lit(family, version) / name, folder)
    return folder


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def assert_same_tensors(found: dict[str, Any], expected: dict[str, Any]) -> None:
    import torch

    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype, name
        assert torch.equal(found[name], expected[name]), name


def logits_of(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    attention = {"attn_implementation": "eager"} if "gemma2" in str(folder) else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **attention).eval()
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits


@pytest.mark.parametrize(("family", "version"), CASES)
def test_back_to_hugging_face(zoo: Zoo, family: str, version: str, tmp_path: Path) -> None:
    """To the byte: safetensors' own file of the model that LitGPT's checkpoint was made from."""
    source = lit_copy(zoo, family, version, tmp_path / "lit", "config.json")
    convert(source, tmp_path / "hf", to="hf")
    assert_same_tensors(tensors_of(tmp_path / "hf"), tensors_of(zoo.hf(family)))
    found = verify(tmp_path / "hf", against=source)
    assert found.is_fine, (found.findings, found.off)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (zoo.hf(family) / name).read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_without_a_config(zoo: Zoo, family: str, tmp_path: Path) -> None:
    """config.json follows from LitGPT's settings: transformers computes what LitGPT does."""
    import torch

    source = lit_copy(zoo, family, TODAY, tmp_path / family, "model_config.yaml")
    convert(source, tmp_path / f"{family}-hf", to="hf")
    found = logits_of(tmp_path / f"{family}-hf")
    torch.testing.assert_close(found, zoo.logits(family, TODAY), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("version", [TODAY, BEFORE])
def test_to_litgpt_and_back(zoo: Zoo, family: str, version: str, tmp_path: Path) -> None:
    import torch

    convert(zoo.hf(family), tmp_path / "lit", to="litgpt", litgpt_layout=LAYOUTS[version])
    if (family, version) in CASES:
        expected = torch.load(zoo.lit(family, version) / "lit_model.pth", weights_only=False)
        assert_same_tensors(torch.load(tmp_path / "lit" / "lit_model.pth", weights_only=True), expected)
    convert(tmp_path / "lit", tmp_path / "hf", to="hf")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (zoo.hf(family) / name).read_bytes()


def test_litgpt_runs_what_is_written(zoo: Zoo, litgpt: dict[str, LitGPT], tmp_path: Path) -> None:
    """model_config.yaml is what LitGPT needs to compute the same, and to convert the model itself."""
    import torch

    tasks = []
    for family in FAMILIES:
        folder = tmp_path / FAMILIES[family].lit_name
        convert(zoo.hf(family), folder, to="litgpt")
        tasks.append({"do": "logits", "directory": str(folder), "output": str(folder / "logits"), "tokens": TOKENS})
        if family != "olmo2":  # LitGPT's own way back fails
            tasks.append({"do": "to_hf", "directory": str(folder), "output": str(folder / "own")})
    litgpt[TODAY].run(tasks)
    for family in FAMILIES:
        folder = tmp_path / FAMILIES[family].lit_name
        found = torch.load(folder / "logits")
        torch.testing.assert_close(found, zoo.logits(family, "hf"), atol=2e-6, rtol=1e-5, msg=family)
        if family != "olmo2":
            own = torch.load(folder / "own" / "model.pth", weights_only=True)
            expected = tensors_of(zoo.hf(family))
            if "lm_head.weight" not in expected:
                own.pop("lm_head.weight", None)
            assert_same_tensors(own, expected)


# What the loader of 5 July 2023 assumes of a setting that lit_config.json leaves out, and the later ones with it.
DEFAULTS_OF_2023 = {
    "block_size": 4096,
    "vocab_size": 50254,
    "n_layer": 16,
    "n_head": 32,
    "n_embd": 4096,
    "rotary_percentage": 0.25,
    "parallel_residual": True,
    "bias": True,
    "shared_attention_norm": False,
    "_norm_class": "LayerNorm",
    "norm_eps": 1e-5,
    "_mlp_class": "GptNeoxMLP",
    "rope_base": 10000,
    "lm_head_bias": False,
    "gelu_approximate": "none",
    "scale_embeddings": False,
}
NEWER = {"llama3", "mistral", "gemma2", "gemma3", "qwen2", "qwen2_tied", "qwq", "qwen3", "qwen3_moe", "olmo2"}


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_for_the_loaders_of_2023(zoo: Zoo, family: str, tmp_path: Path) -> None:
    """lit_config.json, which they insist on and whose keys they must know; none for what they cannot run."""
    folder = tmp_path / FAMILIES[family].lit_name
    convert(zoo.hf(family), folder, to="litgpt", litgpt_layout="interleaved")
    if family in NEWER:
        assert not (folder / "lit_config.json").exists()
        return
    found = json.loads((folder / "lit_config.json").read_text())
    expected = DEFAULTS_OF_2023 | FAMILIES[family].lit_config() | {"org": ""}
    expected = {{"mlp_class_name": "_mlp_class"}.get(key, key): value for key, value in expected.items()}
    expected["_norm_class"] = expected.pop("norm_class_name", "LayerNorm")
    del expected["hf_config"], expected["name"]
    if expected["head_size"] == expected["n_embd"] // expected["n_head"]:
        del expected["head_size"]  # the first loaders compute it and refuse the key
    assert found.pop("name").startswith(("hf", "Gemma-", "phi-", "Phi-3-", "pythia-", "falcon-", "OLMo-", "stablelm-"))
    assert DEFAULTS_OF_2023 | {"n_query_groups": expected["n_head"]} | found == expected
    assert all(value != DEFAULTS_OF_2023.get(key) for key, value in found.items())


def test_a_head_that_left_its_embedding(zoo: Zoo, tmp_path: Path) -> None:
    """Fine-tuning does not share them, whatever config.json says of the base."""
    import torch

    source = lit_copy(zoo, "gemma", TODAY, tmp_path / "lit", "config.json")
    state = torch.load(source / "lit_model.pth")
    state = {name: tensor.clone() for name, tensor in state.items()}
    state["lm_head.weight"] += 1
    torch.save({"model": state, "iter_num": 3}, source / "lit_model.pth")
    convert(source, tmp_path / "hf", to="hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(tensors_of(tmp_path / "hf")["lm_head.weight"], state["lm_head.weight"])


def test_names_of_compiled_models(zoo: Zoo, tmp_path: Path) -> None:
    import torch

    source = lit_copy(zoo, "phi", TODAY, tmp_path / "lit", "config.json")
    state = torch.load(source / "lit_model.pth")
    renamed = {f"_orig_mod.{name.replace('.attn.', '.attn._orig_mod.')}": tensor for name, tensor in state.items()}
    torch.save({"model": renamed}, source / "lit_model.pth")
    convert(source, tmp_path / "hf", to="hf")
    assert_same_tensors(tensors_of(tmp_path / "hf"), tensors_of(zoo.hf("phi")))


def test_gemma_as_misnamed_by_litgpt(zoo: Zoo, tmp_path: Path) -> None:
    """0.4.6 and later take Gemma-2b for a Gemma 2, whose norms have other names."""
    import torch

    source = lit_copy(zoo, "gemma", TODAY, tmp_path / "lit", "config.json")
    state = torch.load(source / "lit_model.pth")
    torch.save({n.replace("norm_2.", "post_attention_norm."): t for n, t in state.items()}, source / "lit_model.pth")
    convert(source, tmp_path / "hf", to="hf")
    assert_same_tensors(tensors_of(tmp_path / "hf"), tensors_of(zoo.hf("gemma")))


@pytest.mark.parametrize("layout", LAYOUTS.values())
def test_to_gguf(layout: str, tmp_path: Path) -> None:
    """One pass from Lit-GPT to a quantized file: the same as from Hugging Face's."""
    write_hf(tmp_path / "hf" / "model", LlamaShape())
    (tmp_path / "lit").mkdir()
    convert(tmp_path / "hf" / "model", tmp_path / "lit" / "model", to="litgpt", litgpt_layout=layout)
    for kind in ("hf", "lit"):
        convert(tmp_path / kind / "model", tmp_path / f"{kind}.gguf", outtype="q4_0")
    assert (tmp_path / "hf.gguf").read_bytes() == (tmp_path / "lit.gguf").read_bytes()
