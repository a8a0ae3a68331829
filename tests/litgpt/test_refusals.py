"""Lit-GPT checkpoints that are not what they should be: one line each, naming what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastconv import convert
from fastconv.errors import AdapterError, ArchitectureError, CheckpointError, FastconvError, UsageError
from tests.litgpt.conftest import BEFORE, TODAY, Zoo
from tests.litgpt.test_families import lit_copy

State = dict[str, Any]
LAYER = "transformer.h.0."


def renamed(before: str, after: str) -> Callable[[State], State]:
    return lambda state: {name.replace(before, after): tensor for name, tensor in state.items()}


def with_tensor(name: str, *shape: int) -> Callable[[State], State]:
    def add(state: State) -> State:
        import torch

        return state | {name: torch.ones(*shape)}

    return add


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


CASES: dict[str, tuple[Callable[[State], State], type[FastconvError], str]] = {
    "adapter": (with_tensor(f"{LAYER}attn.gating_factor", 1, 1, 4, 1), AdapterError, "LLaMA-Adapter"),
    "adapter v2": (with_tensor(f"{LAYER}mlp.fc_1.adapter_bias", 96), AdapterError, "LLaMA-Adapter"),
    "unmerged LoRA": (with_tensor(f"{LAYER}attn.proj.lora_A", 4, 64), AdapterError, "a LoRA that is not merged"),
    "LoRA alone": (lambda state: with_tensor(f"{LAYER}attn.proj.lora_A", 4, 64)({}), AdapterError, "without its base"),
    "both layouts": (with_tensor(f"{LAYER}attn.attn.weight", 128, 64), ArchitectureError, "or both"),
    "unknown tensor": (
        with_tensor(f"{LAYER}attn.odd.weight", 64),
        ArchitectureError,
        "odd.weight: is not a tensor",
    ),
    "tensor of another family": (with_tensor(f"{LAYER}norm_1.bias", 64), ArchitectureError, "norm_1.bias: is not a"),
    "a norm by two names": (
        with_tensor(f"{LAYER}post_attention_norm.weight", 64),
        ArchitectureError,
        "post_attention_norm.weight: is not a",
    ),
    "missing tensor": (without(f"{LAYER}mlp.proj.weight"), ArchitectureError, f"{LAYER}mlp.proj.weight: is missing"),
    "missing embedding": (without("transformer.wte.weight"), ArchitectureError, "transformer.wte.weight: is missing"),
    "missing head": (without("lm_head.weight"), ArchitectureError, "lm_head.weight: is missing"),
    "a layer too few": (
        renamed("h.1.", "h.2."),
        ArchitectureError,
        "h.1.norm_1.weight: is missing",
    ),
    "another shape": (with_tensor(f"{LAYER}mlp.fc_2.weight", 95, 64), ArchitectureError, "has another shape"),
    "odd QKV": (with_tensor(f"{LAYER}attn.qkv.weight", 127, 64), ArchitectureError, "are no q, k and v"),
    "another number of heads": (
        with_tensor(f"{LAYER}attn.qkv.weight", 96, 64),
        ArchitectureError,
        "is not the model of config.json: found 64 rows of q, 16 of k",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_model(zoo: Zoo, case: str, tmp_path: Path) -> None:
    import torch

    change, kind, message = CASES[case]
    source = lit_copy(zoo, "llama_grouped", TODAY, tmp_path / "lit", "config.json")
    torch.save(change(torch.load(source / "lit_model.pth")), source / "lit_model.pth")
    with pytest.raises(kind, match=message) as raised:
        convert(source, tmp_path / "out", to="hf")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_settings_that_are_missing(zoo: Zoo, tmp_path: Path) -> None:
    source = lit_copy(zoo, "llama_grouped", BEFORE, tmp_path / "lit")
    with pytest.raises(ArchitectureError, match=r"settings are not beside it.*--model-name"):
        convert(source, tmp_path / "out", to="hf")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Llama-2-7b-hf", ArchitectureError, "is not the model of LitGPT's settings of Llama-2-7b-hf"),
        ("pythia-14m", ArchitectureError, "is not a tensor of pythia-14m, of the gpt_neox family|is not the model of"),
        ("Llama-2-7b-hg", UsageError, "no model of this name: found Llama-2-7b-hg.*Llama-2-7b-hf"),
    ],
)
def test_a_name_that_disagrees(zoo: Zoo, name: str, kind: type[FastconvError], message: str, tmp_path: Path) -> None:
    source = lit_copy(zoo, "llama_grouped", TODAY, tmp_path / "lit")
    with pytest.raises(kind, match=message):
        convert(source, tmp_path / "out", to="hf", model_name=name)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("- 1", CheckpointError, "is not a mapping of names"),
        ("a: [", CheckpointError, "is not valid YAML"),
        ("name: 3", ArchitectureError, "name is not a string"),
        ("n_head: many", ArchitectureError, "n_head is not usable"),
        ("n_head: -4", ArchitectureError, "n_head is not usable"),
        ("n_embd: 64\nn_head: 8\nhead_size: 16\nn_query_groups: 2", ArchitectureError, "is not the model of"),
        ("a: " + "[" * 5000, CheckpointError, "is not valid YAML"),
    ],
)
def test_settings_that_are_malformed(
    zoo: Zoo, text: str, kind: type[FastconvError], message: str, tmp_path: Path
) -> None:
    source = lit_copy(zoo, "llama_grouped", TODAY, tmp_path / "lit")
    (source / "model_config.yaml").write_text(text)
    with pytest.raises(kind, match=message):
        convert(source, tmp_path / "out", to="hf")


def test_a_folder_with_both(zoo: Zoo, tmp_path: Path) -> None:
    source = lit_copy(zoo, "llama_grouped", TODAY, tmp_path / "lit", "config.json", "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"holds both lit_model.pth and pytorch_model.bin"):
        convert(source, tmp_path / "out", to="hf")
    convert(source, tmp_path / "out", to="hf", checkpoint_name="lit_model.pth")


def test_names_of_finetuned_files(zoo: Zoo, tmp_path: Path) -> None:
    """--checkpoint-name, and a LoRA's folder given as the source."""
    source = lit_copy(zoo, "llama_grouped", TODAY, tmp_path / "lit", "config.json")
    (source / "lit_model.pth").rename(source / "lit_model_finetuned.pth")
    convert(source, tmp_path / "out", to="hf", checkpoint_name="lit_model_finetuned.pth")
    lora = tmp_path / "lora"
    lora.mkdir()
    shutil.copy(zoo.lora("llama_grouped", TODAY, "qv") / "lit_model.pth.lora", lora)
    with pytest.raises(AdapterError, match="is a LoRA without its base"):
        convert(lora, tmp_path / "out2", to="hf")


def test_models_that_litgpt_has_not(tmp_path: Path) -> None:
    from tests.models import LlamaShape, write_hf

    write_hf(tmp_path / "m", LlamaShape(attention_bias=True))
    with pytest.raises(ArchitectureError, match=r"self_attn.\w+.bias: has no place in Lit-GPT's llama models"):
        convert(tmp_path / "m", tmp_path / "out", to="litgpt")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"architectures": ["OPTForCausalLM"]}))
    with pytest.raises(ArchitectureError, match="Lit-GPT has no models of this architecture: found"):
        convert(tmp_path / "m", tmp_path / "out", to="litgpt")


@pytest.mark.parametrize("classes", [1.5, "LlamaForCausalLM", [None], {"a": 1}, [["LlamaForCausalLM"]]])
@pytest.mark.parametrize("target", ["gguf", "hf", "litgpt"])
def test_classes_that_are_no_list_of_names(tmp_path: Path, classes: Any, target: str) -> None:
    from tests.models import write_hf

    write_hf(tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "lit", to="litgpt")
    for folder in (tmp_path / "m", tmp_path / "lit"):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": classes, "text_config": {}}))
        with pytest.raises(ArchitectureError, match=r"config.json: architectures is not a list of names: found"):
            convert(folder, tmp_path / "out", to=target)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("attn.kv_a_proj_with_mqa.weight", "a model with latent attention"), ("rms_1.scale", "a model of lit-llama")],
)
def test_models_of_other_kinds(name: str, message: str, tmp_path: Path) -> None:
    import torch

    names = ("transformer.wte.weight", "lm_head.weight", f"{LAYER}{name}")
    torch.save({name: torch.ones(8, 8) for name in names}, tmp_path / "lit_model.pth")
    with pytest.raises(ArchitectureError, match=f"{name}: belongs to {message}"):
        convert(tmp_path, tmp_path / "out", to="hf")


def test_settings_of_known_models() -> None:
    """Every model that LitGPT has had a name for gives usable sizes, and a class of transformers."""
    from fastconv.architecture.litgpt.config import known_configs
    from fastconv.architecture.litgpt.namings import NAMINGS
    from fastconv.architecture.litgpt.settings import hf_config
    from fastconv.architecture.litgpt.source import class_of

    known = known_configs()
    assert len(known) > 230
    for config in known:
        assert config.n_head % config.n_query_groups == 0, config.name
        entries = [entry for naming in NAMINGS if (entry := class_of(config, [naming])) is not None]
        assert entries, config.name
        assert hf_config(entries[0], config)["num_attention_heads"] == config.n_head
