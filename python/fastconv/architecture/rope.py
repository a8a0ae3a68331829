"""The two orders in which attention heads store the rows that rotate together, as row indices.

Hugging Face keeps the two halves of a head apart (row j * hd/2 + i holds component j of pair i); Meta, GGML and GGUF
interleave them (row 2 * i + j). Source: transformers, convert_llama_weights_to_hf.py; formats of 2023 and GGUF share
Meta's order.
"""

from __future__ import annotations

import numpy as np


def interleaved_from_halves(n_heads: int, head_dim: int) -> np.ndarray:
    """index with interleaved row r = halves row index[r]. Returns (n_heads * head_dim,) int64."""
    halves = np.arange(n_heads * head_dim, dtype=np.int64).reshape(n_heads, 2, head_dim // 2)
    return halves.swapaxes(1, 2).reshape(-1)


def halves_from_interleaved(n_heads: int, head_dim: int) -> np.ndarray:
    """index with halves row r = interleaved row index[r]; the inverse of `interleaved_from_halves`."""
    interleaved = np.arange(n_heads * head_dim, dtype=np.int64).reshape(n_heads, head_dim // 2, 2)
    return interleaved.swapaxes(1, 2).reshape(-1)
