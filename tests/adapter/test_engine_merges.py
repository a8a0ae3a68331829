"""Adapters saved by PEFT, merged by the native engine into f32 tensors, against PEFT's own merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import engine
from fastconv.adapter.attach import attach_adapters
from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.rope import interleaved_from_halves
from fastconv.plan.job import TensorJob, TensorOutput
from tests.adapter.peft_models import Llama, peft_merged, trained_adapter

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, list[dict[str, Any]]] = {
    "plain": [{"target_modules": MATRICES}],
    "dora": [{"target_modules": [*MATRICES, "lm_head"], "use_dora": True}],
    "dora, then another": [{"use_dora": True}, {"target_modules": MATRICES}],
    "another, then dora twice": [{"target_modules": MATRICES}, {"use_dora": True}, {"use_dora": True, "r": 3}],
    "embedding": [{"target_modules": ["embed_tokens", "lm_head"]}],
    "lora_bias": [{"lora_bias": True}],
    "trained biases and norms": [{"bias": "all", "modules_to_save": ["norm", "lm_head"]}],
}


def merged_by_engine(tensors: dict[str, MergedTensor], path: Path) -> dict[str, np.ndarray]:
    jobs, at = [], 0
    for name, tensor in tensors.items():
        size = tensor.base.n_elements * 4
        output = TensorOutput(0, "f32", at, size)
        jobs.append(TensorJob(name, name, tensor.base.shape, tensor.base, tensor.deltas, (output,)))
        at += size
    with path.open("wb") as file:
        engine.run(jobs, [file.fileno()], threads=2)
    data = np.fromfile(path, "<f4")
    return {job.name: data[job.outputs[0].offset // 4 :][: job.source.n_elements].reshape(job.shape) for job in jobs}


@pytest.mark.parametrize("rearranged", [False, True], ids=["in order", "interleaved"])
@pytest.mark.parametrize("case", CASES)
def test_the_engine_merges_as_peft(case: str, rearranged: bool, llama: Callable[..., Llama], tmp_path: Path) -> None:
    model = llama(attention_bias=True)
    adapters = [
        trained_adapter(model.torch, tmp_path / str(index), seed=index, **config)
        for index, config in enumerate(CASES[case])
    ]
    tensors = attach_adapters(model.canonical, [(adapter, 1.0) for adapter in adapters]).tensors
    expected = peft_merged(model.torch, *adapters)
    if rearranged:
        index = interleaved_from_halves(4, 8)
        for name in [name for name in tensors if ".q_proj." in name]:
            tensors[name] = tensors[name].with_rows(index)
            expected[name] = expected[name][index]
    for name, values in merged_by_engine(tensors, tmp_path / "merged").items():
        atol = 4e-7 * np.abs(expected[name]).max()
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=atol, err_msg=name)
