"""Gemma 3 that sees as well: its part about language, which is all that Lit-GPT has of it. No data is moved.

Source: LitGPT 0.5.13, scripts/convert_hf_checkpoint.py (copy_weights_gemma_3); transformers 5.23,
configuration_gemma3.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import ArchitectureError

_CLASS = "Gemma3ForConditionalGeneration"
# Before and since transformers 4.52. What follows is named as in a model of language alone.
_TEXT = (
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("lm_head.", "lm_head."),
)
_SIGHT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
_PER_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")
# What the released configurations leave to the class.
_DEFAULTS = {"num_attention_heads": 8, "num_key_value_heads": 4}


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of the part about language; of any other model, config.json itself."""
    text, classes = config.get("text_config"), config.get("architectures")
    if not isinstance(text, dict) or not isinstance(classes, list) or _CLASS not in classes:
        return config
    tied = {"tie_word_embeddings": config["tie_word_embeddings"]} if "tie_word_embeddings" in config else {}
    return _DEFAULTS | tied | text | {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}


def text_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """The part about language, without the rows of tokens that stand for images; any other checkpoint as it is.

    Raises ArchitectureError for a tensor of neither part.
    """
    config = text_config(checkpoint.config)
    if config is checkpoint.config or not any(name.startswith(_SIGHT) for name in checkpoint.tensors):
        return checkpoint
    tensors = dict(_text_tensors(checkpoint))
    n_vocab = _n_text_tokens(checkpoint, tensors)
    for name in _PER_TOKEN:
        if name in tensors:
            tensors[name] = tensors[name].row_range(0, n_vocab)
    return replace(checkpoint, tensors=tensors, config=config | {"vocab_size": n_vocab})


def _text_tensors(checkpoint: Checkpoint) -> Mapping[str, LazyTensor]:
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        if name.startswith(_SIGHT):
            continue
        found = next((after + name.removeprefix(before) for before, after in _TEXT if name.startswith(before)), None)
        if found is None:
            raise ArchitectureError("is of neither language nor sight", file=checkpoint.path, tensor=name)
        tensors[found] = tensor.renamed(found)
    return tensors


def _n_text_tokens(checkpoint: Checkpoint, tensors: Mapping[str, LazyTensor]) -> int:
    """Tokens before the first that stands for images alone: LitGPT's vocabulary ends there."""
    embedding = tensors.get(_PER_TOKEN[0])
    if embedding is None or len(embedding.shape) != 2:
        raise ArchitectureError("is missing or no matrix", file=checkpoint.path, tensor=_PER_TOKEN[0])
    n_rows = embedding.shape[0]
    first = checkpoint.config.get("image_token_index", checkpoint.config.get("image_token_id", 262144))
    if type(first) is not int or first < 1:
        path = os.path.join(checkpoint.directory, "config.json")
        raise ArchitectureError("image_token_index is not usable", file=path, found=repr(first)[:80])
    return min(first, n_rows)
