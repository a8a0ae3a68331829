"""Converted tiny models, and the truth to hold them against."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests import models


@pytest.fixture
def run_cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`fastconv ...` as a process of its own: (arguments) -> CompletedProcess."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        import os

        return subprocess.run(
            [sys.executable, "-m", "fastconv", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            timeout=120,
        )

    return run


@pytest.fixture
def ggml_quantize() -> Callable[[np.ndarray, str], bytes]:
    """(float32 values, type name) -> the bytes of ggml's own quantizer; float types as NumPy rounds them."""
    from tests.kernels import ggml

    def quantize(values: np.ndarray, type_name: str) -> bytes:
        if type_name in ("f32", "f16", "bf16"):
            return models.encoded(values, type_name.upper())
        return ggml.quantize(np.ascontiguousarray(values), type_name).tobytes()

    return quantize


def gguf_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """name -> (type, shape, bytes), read by the gguf package."""
    reader = gguf.GGUFReader(path)
    return {
        tensor.name: (tensor.tensor_type.name.lower(), tuple(map(int, tensor.shape[::-1])), tensor.data.tobytes())
        for tensor in reader.tensors
    }


def gguf_name(name: str, n_layer: int) -> str:
    found = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, n_layer).get_name(name, try_suffixes=(".weight", ".bias"))
    assert found is not None
    return str(found)


def interleave(values: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows from Hugging Face's order to GGUF's, as llama.cpp's converter states it."""
    return (
        values.reshape(n_heads, 2, values.shape[0] // n_heads // 2, *values.shape[1:])
        .swapaxes(1, 2)
        .reshape(values.shape)
    )


def expected_tensors(tensors: dict[str, np.ndarray], shape: models.LlamaShape) -> dict[str, np.ndarray]:
    """What a GGUF file of the model holds, float32, by GGUF name."""
    expected = {}
    for name, values in tensors.items():
        if ".q_proj." in name:
            values = interleave(values, shape.n_head)
        if ".k_proj." in name:
            values = interleave(values, shape.n_head_kv)
        expected[gguf_name(name, shape.n_layer)] = values
    return expected


def write_adapter(
    folder: Path, shape: models.LlamaShape, *, rank: int = 4, alpha: int = 8, seed: int = 1, size: float = 0.05
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A PEFT adapter on all seven matrices, float32. Returns canonical weight name -> (A, B)."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    factors, stored = {}, {}
    modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for name, (n_out, *rest) in shape.tensor_shapes().items():
        if not rest or name.split(".")[-2] not in modules:
            continue
        a = rng.normal(0, size, (rank, rest[0])).astype(np.float32)
        b = rng.normal(0, size, (n_out, rank)).astype(np.float32)
        factors[name] = (a, b)
        module = "base_model.model." + name.removesuffix(".weight")
        stored[module + ".lora_A.weight"], stored[module + ".lora_B.weight"] = a, b
    models.write_safetensors(folder / "adapter_model.safetensors", stored, "F32")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": list(modules), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return factors


def write_wide(folder: Path) -> Path:
    """A model of the shape WIDE, and in its folder `adapter` one for it."""
    models.write_hf(folder, models.WIDE)
    write_adapter(folder / "adapter", models.WIDE, rank=5)
    return folder


def merged(weight: np.ndarray, a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    """The documented sum: over the rank in order, every product and sum rounded to float32, then scaled and added."""
    total = np.zeros_like(weight)
    for r in range(a.shape[0]):
        total += b[:, r : r + 1] * a[r]
    return weight + np.float32(scale) * total
