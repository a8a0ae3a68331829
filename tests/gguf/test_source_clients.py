"""A real llama.cpp reads and writes the same with a model from an old file as with the Hugging Face model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from tests.ggjt import files
from tests.gguf.test_clients import TEXTS, tokens_by_llama_cpp
from tests.models import LlamaShape, write_hf

pytestmark = pytest.mark.clients
SHAPE = LlamaShape(n_vocab=32000, n_embd=64, n_ff=192, n_head_kv=4, extra={"rms_norm_eps": 1e-6})


def weights() -> dict[str, np.ndarray]:
    """Large enough that what follows depends on what went before; f16 holds them."""
    rng = np.random.default_rng(5)
    return {
        name: (len(dims) == 1) + (0.3 * rng.normal(size=dims)).astype(np.float16).astype(np.float32)
        for name, dims in SHAPE.tensor_shapes().items()
    }


def continuation(path: Path) -> Any:
    xllamacpp = pytest.importorskip("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = 64
    parameters.warmup = False
    request = {"prompt": "The quick brown fox", "max_tokens": 16, "temperature": 0}
    return xllamacpp.Server(parameters).handle_completions(request)["choices"][0]["text"]


def test_old_files_read_and_continue_as_the_hugging_face_model(tmp_path: Path) -> None:
    tensors = weights()
    write_hf(tmp_path / "m", SHAPE, tensors=tensors, dtype="F16", tokenizer=False)
    model = files.real_spm_model()
    (tmp_path / "m" / "tokenizer.model").write_bytes(model)
    fastconv.convert(tmp_path / "m", tmp_path / "hf.gguf", outtype="f16")
    expected = continuation(tmp_path / "hf.gguf")
    assert expected.strip()
    tokens = files.spm_tokens(model)
    for version, outtype in ((1, "f16"), (2, "q8_0")):
        files.write(tmp_path / "old.bin", SHAPE, tensors, tokens, outtype, version, 192)
        fastconv.convert(tmp_path / "old.bin", tmp_path / "old.gguf", rms_eps=1e-6, overwrite=True)
        if outtype == "f16":
            assert continuation(tmp_path / "old.gguf") == expected
            assert tokens_by_llama_cpp(tmp_path / "old.gguf", TEXTS) == tokens_by_llama_cpp(tmp_path / "hf.gguf", TEXTS)
        else:
            fastconv.convert(tmp_path / "m", tmp_path / "q.gguf", outtype=outtype, overwrite=True)
            assert continuation(tmp_path / "old.gguf") == continuation(tmp_path / "q.gguf"), version
