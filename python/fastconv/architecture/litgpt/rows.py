"""The two orders of the rows of a fused QKV: all of q, then k, then v; or those of each group of heads together.

Lit-GPT kept groups together until the end of 2024 (LitGPT 0.5.4), gpt_neox and falcon always do. Source: LitGPT
0.5.13, scripts/convert_hf_checkpoint.py (qkv_reassemble).
"""

from __future__ import annotations

import numpy as np


def grouped_from_split(n_q: int, n_kv: int, head_size: int) -> np.ndarray:
    """index with grouped row r = split row index[r]. n_q, n_kv: rows of q, and of k. Returns (n_q + 2 n_kv,) int64."""
    n_groups = n_kv // head_size
    q = np.arange(n_q, dtype=np.int64).reshape(n_groups, -1)
    k = n_q + np.arange(n_kv, dtype=np.int64).reshape(n_groups, head_size)
    return np.concatenate([q, k, k + n_kv], axis=1).reshape(-1)


def split_from_grouped(n_q: int, n_kv: int, head_size: int) -> np.ndarray:
    """index with split row r = grouped row index[r]; the inverse of `grouped_from_split`."""
    return np.argsort(grouped_from_split(n_q, n_kv, head_size))
