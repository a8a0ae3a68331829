"""GGUF's key-values and tensor names -> the same keys as config.json and Hugging Face's names. Knows no row order.

Source: llama.cpp b11434, gguf-py/gguf/constants.py (keys) and src/llama-model.cpp (what is assumed without them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastconv.architecture.spec import ArchitectureSpec
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import ArchitectureError

ROPE_FACTORS = "rope_freqs.weight"
IGNORED = (r"rope_freqs\.weight", r"rope_factors_(long|short)\.weight", r"blk\.\d+\.(attn_rot_embd|rope_freqs)\.weight")
"""Tensors that hold nothing but positions: the hyperparameters say the same."""

# What llama3 scaling has in all of Meta's releases; the factor itself is the largest of the tensor.
_LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# Of config.json -> of GGUF, behind the architecture's name.
KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "rope_scaling.rope_type": "rope.scaling.type",
    "rope_scaling.factor": "rope.scaling.factor",
}
_NEEDED = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "max_position_embeddings")
_YARN_KEYS = {
    "yarn_ext_factor": "extrapolation_factor",
    "yarn_attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}


def as_hf_config(values: Mapping[str, Any], tensors: Mapping[str, LazyTensor], path: str) -> dict[str, Any]:
    """A config.json for the file. path: of the file, for messages.

    Raises ArchitectureError for a key that is missing or of the wrong type, and for heads that no config.json can state
    (rotated in part, or keys and values of two sizes).
    """
    reader = _Reader(values, path)
    head_count = reader.integer(KEYS["num_attention_heads"])
    config: dict[str, Any] = {key: reader.integer(KEYS[key]) for key in _NEEDED}
    config |= {
        "num_key_value_heads": reader.integer(KEYS["num_key_value_heads"], head_count),
        "rms_norm_eps": reader.real(KEYS["rms_norm_eps"]),
        "rope_theta": reader.real(KEYS["rope_theta"], 10000.0),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ArchitectureError(
            "is missing or not a matrix", file=path, tensor="token_embd.weight", fix="download or make the file again"
        )
    config["vocab_size"] = embedding.shape[0]
    head_dim = reader.integer(KEYS["head_dim"], config["hidden_size"] // max(head_count, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if reader.integer(key, head_dim) != head_dim:
            raise ArchitectureError(
                f"{key} is not the size of a head", file=path, found=reader.integer(key), expected=head_dim
            )
    if head_dim * head_count != config["hidden_size"]:
        config["head_dim"] = head_dim
    scaling = _rope_scaling(reader, tensors.get(ROPE_FACTORS), path)
    if scaling:
        config["rope_scaling"] = scaling
    return config


def gguf_names(spec: ArchitectureSpec, canonical: Iterable[str]) -> dict[str, str | None]:
    """Canonical name -> GGUF's, in the order given; None where there is none."""
    from gguf.constants import MODEL_ARCH_NAMES
    from gguf.tensor_mapping import get_tensor_name_map

    architectures = {name: architecture for architecture, name in MODEL_ARCH_NAMES.items()}
    # A map of all layers takes longer to build than anything else here; one layer has the names of all.
    name_map = get_tensor_name_map(architectures[spec.name], 1)
    names: dict[str, str | None] = {}
    for name in canonical:
        layer = re.search(r"\.(\d+)\.", name)
        stem = name if layer is None else f"{name[: layer.start(1)]}0{name[layer.end(1) :]}"
        found = name if name == ROPE_FACTORS else name_map.get_name(stem, try_suffixes=(".weight", ".bias"))
        names[name] = found if layer is None or found is None else found.replace("blk.0.", f"blk.{layer[1]}.")
    return names


def _rope_scaling(reader: _Reader, factors: LazyTensor | None, path: str) -> dict[str, Any] | None:
    if factors is not None:
        if factors.dtype != "f32" or factors.n_elements == 0:
            raise ArchitectureError("holds no f32 factors", file=path, tensor=ROPE_FACTORS, found=factors.dtype)
        return {"rope_type": "llama3", "factor": float(factors.numpy().max()), **_LLAMA3_SCALING}
    kind = reader.text(KEYS["rope_scaling.rope_type"], "none")
    if kind == "none":
        return None
    scaling: dict[str, Any] = {"rope_type": kind}
    if (factor := reader.real(KEYS["rope_scaling.factor"], 0.0)) > 0:
        scaling["factor"] = factor
    if n_ctx := reader.integer("rope.scaling.original_context_length", 0):
        scaling["original_max_position_embeddings"] = n_ctx
    for key, hf in _YARN_KEYS.items():
        if (found := reader.real(f"rope.scaling.{key}", None)) is not None:
            scaling[hf] = found
    return scaling


class _Reader:
    """Values of the file's architecture, checked for type."""

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        self._values = values
        self._path = path
        self._prefix = f"{values.get('general.architecture')}."

    def integer(self, key: str, default: int | None = None) -> int:
        found = self._values.get(self._prefix + key, default)
        if type(found) is not int:
            raise self._bad(key, found, "an integer")
        return found

    def real(self, key: str, default: Any = ...) -> Any:
        """float32 values as the shortest decimal that gives them, as config.json would."""
        found = self._values.get(self._prefix + key, default)
        if found is ... or (found is not default and type(found) not in (int, float)):
            raise self._bad(key, None if found is ... else found, "a number")
        return float(str(np.float32(found))) if type(found) is float else found

    def text(self, key: str, default: str) -> str:
        found = self._values.get(self._prefix + key, default)
        if not isinstance(found, str):
            raise self._bad(key, found, "text")
        return found

    def _bad(self, key: str, found: Any, expected: str) -> ArchitectureError:
        problem = "is missing" if found is None else "is not usable"
        return ArchitectureError(
            f"{self._prefix}{key} {problem}",
            file=self._path,
            found=None if found is None else repr(found)[:80],
            expected=expected,
        )
