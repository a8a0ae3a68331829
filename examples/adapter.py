"""A LoRA that teaches a model one sentence, in PEFT's format and in closed form: no training, no torch.

Each of its rank-one parts sits in the last layer's down_proj. It answers to the activation that one position of the
sentence causes there, to no other position and to no other text it was shown, and adds what makes the next token win.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smollm2 import write_json, write_safetensors

LORA_ALPHA = 16
MARGIN = 6.0  # nats by which the next token leads; quantization to 4 bits shifts logits by about one
RIDGE = 1e-3


def rms_norm(x: np.ndarray, weight: np.ndarray, config: dict) -> np.ndarray:
    """x: (..., n) -> the same shape."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + config["rms_norm_eps"]) * weight


def rotate(x: np.ndarray, theta: float) -> np.ndarray:
    """Rotary embedding in Hugging Face's order. x: (n_heads, n_tokens, head_dim)."""
    _, n_tokens, head_dim = x.shape
    angles = np.arange(n_tokens)[:, None] * theta ** (-np.arange(0, head_dim, 2) / head_dim)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal attention. q, k, v: (n_heads, n_tokens, head_dim) -> (n_tokens, n_heads * head_dim)."""
    n_heads, n_tokens, head_dim = q.shape
    scores = q @ k.swapaxes(1, 2) / np.sqrt(head_dim)
    scores[:, np.triu(np.ones((n_tokens, n_tokens), bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    return (scores @ v).swapaxes(0, 1).reshape(n_tokens, n_heads * head_dim)


def forward(weights: dict[str, np.ndarray], config: dict, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of the last layer's down_proj (n_tokens, intermediate_size) and outputs of that layer (n_tokens, n)."""
    n_heads, n_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    hidden = weights["model.embed_tokens.weight"][ids]
    n_tokens = len(ids)
    activation = np.empty(0)
    for layer in range(config["num_hidden_layers"]):
        w = {part: weights[f"model.layers.{layer}.{part}.weight"] for part in LAYER_PARTS}
        x = rms_norm(hidden, w["input_layernorm"], config)
        q, k, v = (
            (x @ w[f"self_attn.{part}_proj"].T).reshape(n_tokens, heads, -1).swapaxes(0, 1)
            for part, heads in [("q", n_heads), ("k", n_kv_heads), ("v", n_kv_heads)]
        )
        q, k = rotate(q, config["rope_theta"]), rotate(k, config["rope_theta"])
        k, v = (np.repeat(part, n_heads // n_kv_heads, axis=0) for part in (k, v))
        hidden = hidden + attend(q, k, v) @ w["self_attn.o_proj"].T
        x = rms_norm(hidden, w["post_attention_layernorm"], config)
        gate = x @ w["mlp.gate_proj"].T
        activation = gate / (1 + np.exp(-gate)) * (x @ w["mlp.up_proj"].T)
        hidden = hidden + activation @ w["mlp.down_proj"].T
    return activation, hidden


LAYER_PARTS = [
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
]


def winning_change(hidden: np.ndarray, token: int, weights: dict[str, np.ndarray], config: dict) -> np.ndarray:
    """What to add to hidden (n,), in the direction that tells this token from all others, for it to lead by MARGIN.

    Raises ValueError if no length of that direction makes it lead.
    """
    embedding, norm = weights["model.embed_tokens.weight"], weights["model.norm.weight"]
    direction = np.linalg.solve(np.cov(embedding.T), embedding[token] - embedding.mean(axis=0)) / norm
    direction /= np.linalg.norm(direction)
    step = 0.05 * np.linalg.norm(hidden)
    for n_steps in range(200):
        change = n_steps * step * direction
        logits = embedding @ rms_norm(hidden + change, norm, config)
        lead = logits[token] - np.delete(logits, token).max()
        if lead >= MARGIN:
            return change
    raise ValueError(f"token {token} does not win in this direction")


def write_adapter(
    directory: Path,
    weights: dict[str, np.ndarray],
    config: dict,
    prompt: list[int],
    continuation: list[int],
    other: list[int],
) -> None:
    """Writes an adapter of rank len(continuation) that continues prompt with continuation and leaves other as it was.

    weights: float32 under Hugging Face names, embeddings tied. prompt, continuation, other: token ids.
    """
    rank = len(continuation)
    keys, hidden = forward(weights, config, prompt + continuation[:-1])
    keys, hidden = keys[-rank:], hidden[-rank:]
    other_keys, _ = forward(weights, config, other)

    # Row i of A gives 1 for key i and 0 for every other key, as nearly as the ridge lets it.
    all_keys = np.concatenate([keys, other_keys]).astype(np.float64)
    gram = all_keys @ all_keys.T
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    a = np.linalg.solve(gram + ridge, all_keys)[:rank]
    changes = [winning_change(h, token, weights, config) for h, token in zip(hidden, continuation, strict=True)]
    b = np.stack(changes, axis=1) * rank / LORA_ALPHA

    directory.mkdir(parents=True, exist_ok=True)
    module = f"base_model.model.model.layers.{config['num_hidden_layers'] - 1}.mlp.down_proj"
    tensors = {f"{module}.lora_A.weight": a.astype(np.float32), f"{module}.lora_B.weight": b.astype(np.float32)}
    write_safetensors(directory / "adapter_model.safetensors", tensors)
    write_json(
        directory / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "r": rank,
            "lora_alpha": LORA_ALPHA,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
            "target_modules": ["down_proj"],
            "layers_to_transform": [config["num_hidden_layers"] - 1],
            "inference_mode": True,
        },
    )
