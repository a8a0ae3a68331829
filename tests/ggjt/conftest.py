"""Models as the GGJT layout takes them, without files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.llama import LLAMA
from fastconv.architecture.spec import CanonicalModel
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import ArrayStorage
from fastconv.vocab.vocabulary import TokenType, Vocabulary
from tests.models import LlamaShape

ModelMaker = Callable[..., tuple[CanonicalModel, dict[str, MergedTensor]]]


@pytest.fixture
def make_model() -> ModelMaker:
    """Keywords of LlamaShape -> the canonical model and its tensors, of the right shapes and no particular content."""

    def make(**sizes: Any) -> tuple[CanonicalModel, dict[str, MergedTensor]]:
        extra = {"rms_norm_eps": 1e-6} | sizes.pop("extra", {})
        shape = LlamaShape(**({"n_head_kv": 4, "n_ff": 192} | sizes), extra=extra)
        hparams = LLAMA.hyperparameters(shape.config())
        storage = ArrayStorage(np.zeros(1, np.float32))
        tensors = {
            name: LazyTensor.stored(name, "f32", dims, storage, 0) for name, dims in shape.tensor_shapes().items()
        }
        model = CanonicalModel(
            tensors=tensors,
            directory="",
            config=shape.config(),
            source_names={name: name for name in tensors},
            spec=LLAMA,
            hparams=hparams,
        )
        return model, {name: MergedTensor(tensor) for name, tensor in tensors.items()}

    return make


@pytest.fixture
def make_vocabulary() -> Callable[[int], Vocabulary]:
    """n -> a SentencePiece vocabulary of n tokens with LLaMA's three special and 256 byte tokens."""

    def make(n_tokens: int) -> Vocabulary:
        special = [b"<unk>", b"<s>", b"</s>"]
        spelled = [f"<0x{byte:02X}>".encode() for byte in range(256)]
        words = [f"\u2581w{i}".encode() for i in range(n_tokens - 259)]
        return Vocabulary(
            kind="spm",
            tokens=[*special, *spelled, *words],
            types=[
                TokenType.UNKNOWN,
                *[TokenType.CONTROL] * 2,
                *[TokenType.BYTE] * 256,
                *[TokenType.NORMAL] * len(words),
            ],
            scores=[0.0] * 259 + [-float(i) for i in range(len(words))],
            special_ids={"unk": 0, "bos": 1, "eos": 2},
        )

    return make
