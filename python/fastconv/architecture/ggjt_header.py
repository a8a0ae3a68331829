"""The header of a GGML, GGMF or GGJT file -> Meta's params.json. The rest follows from shapes, or is asked for.

Source of what readers assumed: llama.cpp, examples/main and convert_llama_ggml_to_gguf.py (b11434), pull requests 173
and 2374 (epsilon).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastconv.architecture.hparams import Given, Hyperparameters
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import ArchitectureError
from fastconv.types import TYPES

# What readers of Llama 1 had built in, and the middle between Llama 1 and Llama 2 that llama.cpp's converter took.
_LLAMA_1_EPS = 1e-6
_UNKNOWN_EPS = 5e-6

# Of config.json -> of the header.
KEYS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "head_dim": "n_embd / n_head",
}


def as_params(header: Mapping[str, Any], tensors: Mapping[str, LazyTensor], path: str, given: Given) -> dict[str, Any]:
    """A params.json for the file.

    tensors: by Meta's names, parts joined. Raises ArchitectureError where the header contradicts itself or the tensors.
    """
    n_embd, n_head, n_layer = header["n_embd"], header["n_head"], header["n_layer"]
    if not n_head or not n_embd or n_embd % n_head:
        raise ArchitectureError("n_embd is not a multiple of n_head", file=path, found=f"{n_embd} and {n_head}")
    keys = "layers.0.attention.wk.weight"
    if keys not in tensors or len(tensors[keys].shape) != 2:
        raise ArchitectureError("is missing or not a matrix", file=path, tensor=keys)
    n_keys = tensors[keys].shape[0]
    if n_keys == 0 or n_keys % (n_embd // n_head):
        raise ArchitectureError(
            "holds no whole heads", file=path, tensor=keys, found=f"{n_keys} rows", expected=f"of {n_embd // n_head}"
        )
    return {
        "dim": n_embd,
        "n_layers": n_layer,
        "n_heads": n_head,
        "n_kv_heads": n_keys // (n_embd // n_head),
        "multiple_of": header["n_mult"],
        "norm_eps": given.norm_eps or (_LLAMA_1_EPS if _is_of_llama_1(header, tensors) else _UNKNOWN_EPS),
        "rope_theta": given.rope_base,
    }


def assumption_notes(hparams: Hyperparameters, given: Given) -> tuple[str, ...]:
    """What was assumed where neither the file nor the user says it. hparams: as they came out."""
    assumed = [
        f"{what} {value:g} ({option} sets it{hint})"
        for what, value, option, hint, said in (
            ("norm epsilon", hparams.norm_eps, "--rms-eps", ": Llama 1 has 1e-06, Llama 2 1e-05", given.norm_eps),
            ("context length", hparams.n_ctx, "--ctx", "", given.n_ctx),
            ("rope base", hparams.rope_base, "--rope-base", "", given.rope_base),
        )
        if said is None
    ]
    return (f"assumed, as the file does not say: {', '.join(assumed)}",) if assumed else ()


def _is_of_llama_1(header: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> bool:
    """Llama 2 came after version 3, but unquantized files were written as version 1 all the time."""
    quantized = any(TYPES[t.dtype].block_size > 1 for t in tensors.values() if t.dtype in TYPES)
    return header["container"] != "ggjt" or (header["version"] < 3 and quantized)
