"""params.json of Meta's releases -> the same keys as config.json. What it does not state follows from the tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastconv.errors import ArchitectureError

# Of config.json -> of params.json.
KEYS = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "rms_norm_eps": "norm_eps",
    "head_dim": "dim / n_heads",
    "rope_scaling.factor": "rope_scaling_factor",
    "rope_scaling.high_freq_factor": "rope_high_freq_factor",
}


def as_hf_config(
    params: dict[str, Any], shape_of: Callable[[str], tuple[int, ...]], n_ctx: int | None, path: str = "params.json"
) -> dict[str, Any]:
    """A config.json for a Meta checkpoint.

    params: params.json, path: where it is. shape_of: full (joined) shape of a Meta tensor name. n_ctx: the user's,
    None: as released (params.json is silent): 2048 for Llama 1, 4096 for Llama 2, 16384 for Code Llama, 8192 for
    Llama 3, 131072 for its rope-scaled successors. Raises ArchitectureError where a needed key is missing.
    """
    for key in ("dim", "n_layers", "n_heads"):
        if type(params.get(key)) is not int or params[key] <= 0:
            raise ArchitectureError(
                f"{key} is not usable", file=path, found=repr(params.get(key)), expected="a positive integer"
            )
    theta = params.get("rope_theta") or 10000.0
    eps = params.get("norm_eps") or 1e-6
    scaled = bool(params.get("use_scaled_rope"))
    n_ff = shape_of("layers.0.feed_forward.w1.weight")[0]
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": params["dim"],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": params.get("n_kv_heads") or params["n_heads"],
        "intermediate_size": n_ff,
        "vocab_size": shape_of("tok_embeddings.weight")[0],
        "rms_norm_eps": eps,
        "rope_theta": theta,
        "max_position_embeddings": n_ctx or _released_context(theta, eps, scaled),
    }
    if scaled:
        # Source: llama-models, models/llama3/model.py (apply_scaling); 3.2's small models use 32 (their model cards).
        factor = params.get("rope_scaling_factor") or (32.0 if params["dim"] < 4096 else 8.0)
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": params.get("rope_high_freq_factor") or 4.0,
            "original_max_position_embeddings": 8192,
        }
    if type(params.get("multiple_of")) is int:
        config["multiple_of"] = params["multiple_of"]
    return config


def _released_context(theta: float, eps: float, scaled: bool) -> int:
    if scaled:
        return 131072
    if theta == 500000.0:
        return 8192
    if theta == 1000000.0:
        return 16384
    return 4096 if eps == 1e-5 else 2048
