"""Adapters of every kind, saved by PEFT: our description of the merge, in float64, against PEFT's own merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastconv.adapter.attach import AdaptedModel, attach_adapters
from fastconv.architecture.rope import interleaved_from_halves

from tests.adapter.float64_merge import merged
from tests.adapter.peft_models import Llama, peft_merged, trained_adapter

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
    assert adapted.hparams == model.canonical.hparams


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
