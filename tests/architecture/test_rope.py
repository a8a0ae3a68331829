"""The two row orders of rotating heads, against the definition of rotary embeddings itself."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv.architecture.rope import halves_from_interleaved, interleaved_from_halves


@pytest.mark.parametrize(("n_heads", "head_dim"), [(1, 2), (1, 8), (3, 4), (8, 64), (5, 6)])
def test_the_orders_undo_each_other(n_heads: int, head_dim: int) -> None:
    there = np.asarray(interleaved_from_halves(n_heads, head_dim))
    back = np.asarray(halves_from_interleaved(n_heads, head_dim))
    assert np.array_equal(there[back], np.arange(n_heads * head_dim))
    assert np.array_equal(back[there], np.arange(n_heads * head_dim))


def rotate_halves(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """As in transformers: pairs (i, i + d/2)."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)


def rotate_pairs(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """As in Meta's code and ggml: pairs (2 i, 2 i + 1)."""
    a, b = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = a * np.cos(angles) - b * np.sin(angles)
    out[..., 1::2] = b * np.cos(angles) + a * np.sin(angles)
    return out


@pytest.mark.parametrize(("n_heads", "n_kv"), [(4, 4), (4, 2), (6, 1)])
def test_attention_scores_are_the_same_in_both_orders(n_heads: int, n_kv: int) -> None:
    rng = np.random.default_rng(0)
    head_dim, n_embd = 8, 24
    wq, wk = rng.normal(size=(n_heads * head_dim, n_embd)), rng.normal(size=(n_kv * head_dim, n_embd))
    xq, xk = rng.normal(size=(2, n_embd))
    aq, ak = 0.7 * 10000.0 ** -(np.arange(4) / 4), 2.3 * 10000.0 ** -(np.arange(4) / 4)

    def scores(q: np.ndarray, k: np.ndarray, rotate: object) -> np.ndarray:
        heads_q = rotate(q.reshape(n_heads, head_dim), aq)  # type: ignore[operator]
        heads_k = np.repeat(rotate(k.reshape(n_kv, head_dim), ak), n_heads // n_kv, 0)  # type: ignore[operator]
        return (heads_q * heads_k).sum(-1)

    halves = scores(wq @ xq, wk @ xk, rotate_halves)
    gguf_q = wq[interleaved_from_halves(n_heads, head_dim)]
    gguf_k = wk[interleaved_from_halves(n_kv, head_dim)]
    np.testing.assert_allclose(scores(gguf_q @ xq, gguf_k @ xk, rotate_pairs), halves)
