"""A model whose q, k and v have one shape, an adapter for it, and what they convert to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastconv import convert
from tests import models

SHAPE = models.LlamaShape(n_embd=256, n_ff=768, n_head=4, n_head_kv=4)


def write_adapter(
    directory: Path, *, size: float = 0.02, seed: int = 5, modules: tuple[str, ...] = ("q_proj", "v_proj")
) -> Path:
    """A PEFT adapter of rank 4 and alpha 8 for q and v of every layer. size: of the elements of A and B."""
    directory.mkdir()
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(SHAPE.n_layer):
        for module in modules:
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_"
            tensors[f"{prefix}A.weight"] = rng.normal(0, size, (4, 256)).astype(np.float32)
            tensors[f"{prefix}B.weight"] = rng.normal(0, size, (256, 4)).astype(np.float32)
    models.write_safetensors(directory / "adapter_model.safetensors", tensors, "F32")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(modules)}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("verify") / "model"
    models.write_hf(directory, SHAPE)
    return directory


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("verify") / "adapter")


@pytest.fixture(scope="session")
def converted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(type, adapters...) -> the model converted to GGUF; made once and not to be changed."""
    directory = tmp_path_factory.mktemp("converted")

    def make(outtype: str, *adapters: Path) -> Path:
        path = directory / f"{outtype}-{len(adapters)}.gguf"
        if not path.exists():
            convert(model, path, outtype=outtype, lora=list(adapters))
        return path

    return make
