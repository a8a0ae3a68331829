"""GGJT v3 files in a client of the time: its logits against transformers' with the weights that the file holds."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import fastconv
from tests.ggjt import files
from tests.models import LlamaShape, write_hf

ctransformers = pytest.importorskip("ctransformers", reason="pip install --no-deps ctransformers==0.2.27 py-cpuinfo")

pytestmark = [pytest.mark.slow, pytest.mark.clients]

SHAPE = LlamaShape(n_vocab=512, n_embd=256, n_ff=768, n_head=4, n_head_kv=4, extra={"rms_norm_eps": 1e-6})
PROMPT = [1, 300, 17, 450, 301, 302, 9]


def weights() -> dict[str, np.ndarray]:
    """Large enough that attention is far from uniform and the norm's epsilon does not matter."""
    rng = np.random.default_rng(5)
    return {
        name: (1 + 0.1 * rng.normal(size=dims) if len(dims) == 1 else 0.15 * rng.normal(size=dims)).astype(np.float32)
        for name, dims in SHAPE.tensor_shapes().items()
    }


def as_stored(tensors: dict[str, np.ndarray], outtype: str) -> dict[str, np.ndarray]:
    """The weights as the file holds them; of quantized files output.weight is q6_k."""
    stored = {}
    for name, x in tensors.items():
        block = "q6_k" if name == "lm_head.weight" and outtype.startswith("q") else outtype
        kind = gguf.GGMLQuantizationType[block.upper()]
        stored[name] = x if x.ndim == 1 else gguf.dequantize(fastconv.quantize(x, block), kind)
    return stored


def transformers_logits(tensors: dict[str, np.ndarray]) -> np.ndarray:
    import torch
    import transformers

    config = {key: value for key, value in SHAPE.config().items() if key not in ("architectures", "model_type")}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).float().eval()
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in tensors.items()})
    with torch.no_grad():
        return model(torch.tensor([PROMPT])).logits[0, -1].numpy()


@pytest.mark.parametrize("outtype", ["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_ctransformers_computes_what_transformers_does(outtype: str, tmp_path: Path) -> None:
    tensors = weights()
    write_hf(tmp_path / "model", SHAPE, tensors=tensors, dtype="F32")
    path = tmp_path / "model.bin"
    fastconv.convert(tmp_path / "model", path, to="ggjt-v3", outtype=outtype)
    assert files.read(path).header["ftype"] == files.FTYPES[outtype]

    client = ctransformers.AutoModelForCausalLM.from_pretrained(
        str(path), model_type="llama", lib="avx2", context_length=64, threads=2
    )
    client.eval(PROMPT)
    found = np.array(client.logits, np.float32)
    expected = transformers_logits(as_stored(tensors, outtype))
    # The client keeps its cache in f16 and, where weights are quantized, rounds activations to 8 bits. One order of
    # nibbles or rows gone wrong gives an error above 1.
    tolerance = 0.003 if outtype in ("f32", "f16") else 0.1
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert error < tolerance
