"""Adapters of every kind, saved by PEFT: our description of the merge, in float64, against PEFT's own merge."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv.adapter.attach import AdaptedModel, attach_adapters
from fastconv.architecture.rope import interleaved_from_halves
from tests.adapter.float64_merge import merged
from tests.adapter.peft_models import Llama, drop, edit_config, peft_merged, trained_adapter, untied

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MATRICES = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]

# name -> (keywords of LoraConfig, keywords of LlamaConfig)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"target_modules": MATRICES}, {}),
    "head_dim": ({"target_modules": MATRICES}, {"head_dim": 16}),
    "rank above the columns": ({"r": 40, "lora_alpha": 3}, {}),
    "rslora": ({"use_rslora": True, "r": 6, "lora_alpha": 5}, {}),
    "rank_pattern": ({"rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 7}}, {}),
    "alpha_pattern": ({"alpha_pattern": {"v_proj": 32, r"layers\.0\..*": 1}}, {}),
    "patterns and rslora": (
        {"rank_pattern": {"^model.layers.0.*": 2}, "alpha_pattern": {".*q_proj": 3.5}, "use_rslora": True},
        {},
    ),
    "one layer": ({"layers_to_transform": [1]}, {}),
    "dora": ({"use_dora": True, "target_modules": [*MATRICES, "lm_head"]}, {}),
    "dora and rslora": ({"use_dora": True, "use_rslora": True}, {}),
    "embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, {}),
    "lm_head": ({"target_modules": ["lm_head"]}, {}),
    "embedding and lm_head": ({"target_modules": ["embed_tokens", "lm_head"]}, {}),
    "modules_to_save": ({"modules_to_save": ["embed_tokens", "lm_head"]}, {}),
    "modules_to_save, norms and mlp": ({"modules_to_save": ["input_layernorm", "norm", "mlp"]}, {}),
    "bias all": ({"bias": "all", "target_modules": ATTENTION}, {"attention_bias": True, "mlp_bias": True}),
    "bias lora_only": ({"bias": "lora_only"}, {"attention_bias": True}),
    "lora_bias": ({"lora_bias": True, "target_modules": ATTENTION, "lora_alpha": 12}, {"attention_bias": True}),
    "orthogonal": ({"init_lora_weights": "orthogonal"}, {}),
    "lora_bias and bias": ({"lora_bias": True, "bias": "all"}, {"attention_bias": True}),
}  # fmt: skip


def assert_equal(adapted: AdaptedModel, expected: dict[str, np.ndarray]) -> None:
    assert adapted.tensors.keys() == expected.keys()
    for name, tensor in adapted.tensors.items():
        assert_close(merged(tensor), expected[name], name)


def assert_close(found: np.ndarray, expected: np.ndarray, name: str = "") -> None:
    """Scales are rounded to float32, nothing else is."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7 * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_merge_is_pefts(case: str, llama: Callable[..., Llama], tmp_path: Path) -> None:
    config, sizes = CASES[case]
    model = llama(**sizes)
    adapter = trained_adapter(model.torch, tmp_path, **config)
    adapted = attach_adapters(model.canonical, [(adapter, 1.0)])
    expected = peft_merged(model.torch, adapter)
    before = model.torch.state_dict()
    assert any(not np.array_equal(expected[name], before[name].numpy()) for name in expected)
    assert_equal(adapted, expected)
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", "np") as file:
        assert adapted.summaries[0].n_tensors == len(file.keys())
    assert adapted.model.hparams == model.canonical.hparams


@pytest.mark.parametrize("case", ["plain", "dora", "lora_bias", "bias all"])
def test_rows_of_the_merge_follow_the_target(case: str, llama: Callable[..., Llama], tmp_path: Path) -> None:
    config, sizes = CASES[case]
    model = llama(**sizes)
    adapted = attach_adapters(model.canonical, [(trained_adapter(model.torch, tmp_path, **config), 1.0)])
    for name, tensor in adapted.tensors.items():
        index = np.arange(tensor.base.shape[0])
        if ".q_proj." in name:
            index = interleaved_from_halves(4, 8)
        view = tensor.with_rows(index)
        assert view.base.shape == tensor.base.shape
        np.testing.assert_array_equal(merged(view), merged(tensor)[index])
        np.testing.assert_array_equal(merged(view.with_rows(np.argsort(index))), merged(tensor))


def test_a_config_that_says_fan_in_fan_out(llama: Callable[..., Llama], tmp_path: Path) -> None:
    """PEFT clears the flag for nn.Linear and does not look at it for nn.Embedding."""
    model = llama()
    adapter = trained_adapter(model.torch, tmp_path, target_modules=["up_proj", "q_proj", "embed_tokens"])
    edit_config(adapter, fan_in_fan_out=True)
    assert_equal(attach_adapters(model.canonical, [(adapter, 1.0)]), peft_merged(model.torch, adapter))


def test_an_adapter_of_the_bare_model(llama: Callable[..., Llama], tmp_path: Path) -> None:
    """Its names lack "model.", and its patterns are matched against names without it."""
    model = llama()
    config = {"task_type": "FEATURE_EXTRACTION", "alpha_pattern": {"^layers.0.*": 3, "^model.layers.1.*": 5}}
    adapter = trained_adapter(model.torch.model, tmp_path, target_modules=["q_proj", "down_proj"], **config)
    expected = {f"model.{name}": values for name, values in peft_merged(model.torch.model, adapter).items()}
    expected["lm_head.weight"] = model.torch.lm_head.weight.detach().numpy()
    assert_equal(attach_adapters(model.canonical, [(adapter, 1.0)]), expected)


SEVERAL: dict[str, tuple[list[dict[str, Any]], list[float]]] = {
    "two": ([{}, {"target_modules": MATRICES, "r": 7}], [1.0, 1.0]),
    "scaled": ([{}, {"use_rslora": True}], [0.25, -1.5]),
    "three": ([{}, {}, {"target_modules": ["q_proj"]}], [1.0, 0.5, 2.0]),
    "dora scaled": ([{"use_dora": True}], [0.5]),
    "dora by zero": ([{"use_dora": True}], [0.0]),
    "dora, then others": ([{"use_dora": True}, {"target_modules": MATRICES}, {}], [1.0, 0.5, 2.0]),
    "others, then dora": ([{}, {"target_modules": MATRICES}, {"use_dora": True}], [1.0, 0.5, 1.0]),
    "dora twice": ([{"use_dora": True}, {"use_dora": True, "r": 3}], [1.0, 1.0]),
    "dora on other tensors": ([{}, {"use_dora": True, "target_modules": ["down_proj"]}], [1.0, 1.0]),
    "two embeddings": ([{"target_modules": ["embed_tokens"]}, {"target_modules": ["embed_tokens"]}], [1.0, 3.0]),
    "biases": ([{"lora_bias": True}, {"lora_bias": True}], [1.0, 0.5]),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_adapters_add_up_in_order(case: str, llama: Callable[..., Llama], tmp_path: Path) -> None:
    configs, factors = SEVERAL[case]
    model = llama(attention_bias=True)
    adapters = [
        trained_adapter(model.torch, tmp_path / str(index), seed=index, **config)
        for index, config in enumerate(configs)
    ]
    adapted = attach_adapters(model.canonical, list(zip(adapters, factors, strict=True)))
    assert_equal(adapted, peft_merged(model.torch, *adapters, factors=factors))
    assert [summary.path for summary in adapted.summaries] == [str(adapter) for adapter in adapters]


def test_a_replaced_tensor_takes_later_updates(llama: Callable[..., Llama], tmp_path: Path) -> None:
    """PEFT refuses to load the two together: merged one after the other."""
    import torch

    model = llama()
    first = trained_adapter(model.torch, tmp_path / "first", modules_to_save=["lm_head"])
    second = trained_adapter(model.torch, tmp_path / "second", target_modules=["lm_head"], seed=1)
    drop(second, "base_model.model.lm_head.base_layer.weight")  # the untrained one
    after_first = copy.deepcopy(model.torch)
    after_first.load_state_dict({name: torch.tensor(a) for name, a in peft_merged(model.torch, first).items()})
    adapted = attach_adapters(model.canonical, [(first, 1.0), (second, 1.0)])
    assert_equal(adapted, peft_merged(after_first, second))


def test_mica(llama: Callable[..., Llama], tmp_path: Path) -> None:
    """PEFT initialises it in float32 at most."""
    model = llama()
    single = copy.deepcopy(model.torch).float()
    adapter = trained_adapter(single, tmp_path, init_lora_weights="mica", target_modules=["q_proj", "up_proj"])
    adapted = attach_adapters(model.canonical, [(adapter, 1.0)])
    for name, expected in peft_merged(single, adapter).items():
        np.testing.assert_allclose(merged(adapted.tensors[name]), expected, rtol=0, atol=2e-6, err_msg=name)


def test_scales_are_reported(llama: Callable[..., Llama], tmp_path: Path) -> None:
    model = llama()
    adapter = trained_adapter(model.torch, tmp_path, r=4, lora_alpha=8, alpha_pattern={"v_proj": 12})
    summary = attach_adapters(model.canonical, [(adapter, 0.5)]).summaries[0]
    assert summary.scales == (1.0, 1.5)
    assert summary.n_tensors == 8
    assert summary.warnings == ()
    assert set(summary.targets) == {
        f"model.layers.{layer}.self_attn.{name}.weight" for layer in (0, 1) for name in ("q_proj", "v_proj")
    }


@pytest.mark.parametrize(
    ("config", "unties"),
    [
        ({}, False),
        ({"target_modules": ["embed_tokens"]}, True),
        ({"target_modules": ["lm_head"]}, True),
        ({"target_modules": ["lm_head"], "use_dora": True}, True),
        ({"target_modules": ["embed_tokens", "lm_head"]}, True),
        ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, True),
        ({"modules_to_save": ["embed_tokens"]}, True),
        ({"modules_to_save": ["lm_head"]}, True),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, False),
    ],
)
def test_tied_embeddings(config: dict[str, Any], unties: bool, llama: Callable[..., Llama], tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    adapter = trained_adapter(model.torch, tmp_path, **config)
    adapted = attach_adapters(model.canonical, [(adapter, 1.0)])
    if config.get("ensure_weight_tying"):  # adapts what it does not target, in a tied model only
        key = next(key for key in ("target_modules", "modules_to_save") if key in config)
        adapter = shutil.copytree(adapter, tmp_path / "both")
        edit_config(adapter, ensure_weight_tying=False, **{key: ["embed_tokens", "lm_head"]})
    expected = peft_merged(untied(model.torch), adapter)
    if not unties:
        np.testing.assert_array_equal(expected["model.embed_tokens.weight"], expected.pop("lm_head.weight"))
    assert_equal(adapted, expected)
    assert adapted.model.hparams.tied_embeddings is not unties


def test_two_adapters_on_both_sides_of_a_tie(llama: Callable[..., Llama], tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    head = trained_adapter(model.torch, tmp_path / "head", target_modules=["lm_head"])
    embedding = trained_adapter(model.torch, tmp_path / "embedding", target_modules=["embed_tokens"], seed=1)
    for order in ([head, embedding], [embedding, head]):
        adapted = attach_adapters(model.canonical, [(adapter, 1.0) for adapter in order])
        assert_equal(adapted, peft_merged(untied(model.torch), *order))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_a_larger_vocabulary(tied: bool, trained: bool, llama: Callable[..., Llama], tmp_path: Path) -> None:
    """After resizing, PEFT saves a trained module three times: as itself, as modules_to_save, as original_module."""
    model = llama(tie_word_embeddings=tied)
    resized = copy.deepcopy(model.torch)
    resized.resize_token_embeddings(44)
    config = {"modules_to_save": ["embed_tokens", "lm_head"]} if trained else {}
    adapter = trained_adapter(resized, tmp_path, save_embedding_layers=True, **config)
    adapted = attach_adapters(model.canonical, [(adapter, 1.0)])
    expected = peft_merged(untied(resized) if tied else resized, adapter)
    if tied and not trained:
        del expected["lm_head.weight"]
    assert_equal(adapted, expected)
    assert adapted.model.hparams.n_vocab == 44
    assert adapted.model.hparams.tied_embeddings is (tied and not trained)
    assert adapted.summaries[0].warnings == ("changes the vocabulary from 40 to 44 tokens; its tokenizer must match",)


@pytest.mark.parametrize(
    ("config", "factor", "warning"),
    [
        ({"init_lora_weights": True}, 1.0, "changes nothing: every B is zero"),
        ({"init_lora_weights": True, "target_modules": ["q_proj", "embed_tokens"]}, 1.0, None),  # brings its base_layer
        ({}, 0.0, "changes nothing: its scale is 0"),
        ({"lora_alpha": 0}, 1.0, "changes nothing: its scale is 0"),
        ({"modules_to_save": ["lm_head"]}, 0.5, "scale 0.5 does not reach 1 tensors that are replaced whole"),
        ({"use_dora": True}, 0.0, None),
    ],
)
def test_an_adapter_that_changes_nothing_is_called_out(
    config: dict[str, Any], factor: float, warning: str | None, llama: Callable[..., Llama], tmp_path: Path
) -> None:
    model = llama(tie_word_embeddings=False)
    trained = "init_lora_weights" not in config
    adapter = trained_adapter(model.torch, tmp_path, noise=0.3 if trained else 0.0, **config)
    adapted = attach_adapters(model.canonical, [(adapter, factor)])
    assert adapted.summaries[0].warnings == (() if warning is None else (warning,))
    if factor == 0 and "use_dora" not in config:
        assert all(not tensor.deltas for tensor in adapted.tensors.values())


def test_without_adapters_the_model_is_as_it_is(llama: Callable[..., Llama]) -> None:
    model = llama(tie_word_embeddings=True).canonical
    adapted = attach_adapters(model)
    assert adapted.model.hparams == model.hparams
    assert {name: tensor.base for name, tensor in adapted.tensors.items()} == model.tensors
    assert adapted.summaries == ()


# How adapters of other ages and tools spell PEFT's names of today.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "with the adapter's name": lambda name: re.sub(
        r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)(\.|$)", r".\1.default\2", name
    ),
    "magnitude as a module": lambda name: re.sub(r"(lora_magnitude_vector)$", r"\1.weight", name),
    "magnitude with both": lambda name: re.sub(r"(lora_magnitude_vector)$", r"\1.default.weight", name),
    "without base_model": lambda name: name.removeprefix("base_model.model."),
    "before base_layer": lambda name: name.replace(".base_layer.", "."),
    "modules_to_save": lambda name: re.sub(r"(norm)\.weight$", r"\1.modules_to_save.default.weight", name),
    "DistributedDataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "FSDP": lambda name: "_fsdp_wrapped_module." + name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
    "as it is": lambda name: name,
}


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_of_all_ages(spelling: str, safe: bool, llama: Callable[..., Llama], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    model = llama(attention_bias=True)
    config = {"target_modules": ["q_proj", "lm_head"], "use_dora": True, "bias": "all", "modules_to_save": ["norm"]}
    adapter = trained_adapter(model.torch, tmp_path, **config)
    expected = peft_merged(model.torch, adapter)
    file = adapter / "adapter_model.safetensors"
    tensors = {SPELLINGS[spelling](name): tensor for name, tensor in load_file(file).items()}
    file.unlink()
    if safe:
        save_file(tensors, file)
    else:
        torch.save(tensors, adapter / "adapter_model.bin")
    for path in (adapter, next(adapter.glob("adapter_model.*"))):
        assert_equal(attach_adapters(model.canonical, [(path, 1.0)]), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_element_types(dtype: str, llama: Callable[..., Llama], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    model = llama()
    adapter = trained_adapter(model.torch, tmp_path)
    file = adapter / "adapter_model.safetensors"
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    assert_equal(attach_adapters(model.canonical, [(adapter, 1.0)]), peft_merged(model.torch, adapter))
