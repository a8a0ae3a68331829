"""Hyperparameters under one set of names, whatever file they came from."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from fastconv.record import record


@record(eq=True)
class RopeScaling:
    """kind: "linear", "yarn", "llama3" or "longrope". parameters: the rest of the source's settings, by HF's keys."""

    kind: str
    parameters: dict[str, Any] = field(default_factory=dict)


@record(eq=True)
class Hyperparameters:
    """Sizes in elements. n_vocab: rows of the embedding. norm_eps: RMSNorm epsilon. rope_base: theta."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_ff: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    norm_eps: float
    rope_base: float
    rope_scaling: RopeScaling | None = None
    tied_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    n_mult: int | None = None  # Meta's multiple_of, where the source states it

    @property
    def n_embd_q(self) -> int:
        return self.n_head * self.head_dim

    @property
    def n_embd_kv(self) -> int:
        return self.n_head_kv * self.head_dim


@record(eq=True)
class Given:
    """What the user says of a source whose files do not. None: nothing, so that it is as they say.

    n_ctx: context length. norm_eps: of RMSNorm. rope_base: theta. model_name: LitGPT's. has_lora: an adapter comes with
    it, so Lit-GPT's files may hold one that is not merged.
    """

    n_ctx: int | None = None
    norm_eps: float | None = None
    rope_base: float | None = None
    model_name: str | None = None
    has_lora: bool = False
