"""Rotary positions: the two orders in which heads store the rows that rotate together, and llama3's scaling.

Hugging Face keeps the two halves of a head apart (row j * hd/2 + i holds component j of pair i); Meta, GGML and GGUF
interleave them (row 2 * i + j). Source: transformers, convert_llama_weights_to_hf.py; formats of 2023 and GGUF share
Meta's order.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from fastconv.architecture.hparams import Hyperparameters

if TYPE_CHECKING:
    import numpy as np


def interleaved_from_halves(n_heads: int, head_dim: int) -> array[int]:
    """index with interleaved row r = halves row index[r]. Returns (n_heads * head_dim,) int64."""
    half = head_dim // 2
    heads = range(0, n_heads * head_dim, head_dim)
    return array("q", (head + i + j * half for head in heads for i in range(half) for j in range(2)))


def halves_from_interleaved(n_heads: int, head_dim: int) -> array[int]:
    """index with halves row r = interleaved row index[r]; the inverse of `interleaved_from_halves`."""
    half = head_dim // 2
    heads = range(0, n_heads * head_dim, head_dim)
    return array("q", (head + 2 * i + j for head in heads for j in range(2) for i in range(half)))


def rope_factors(hparams: Hyperparameters) -> np.ndarray | None:
    """What llama3 scaling divides each pair's frequency by, (head_dim // 2,) float32; None for other models.

    Frequencies above the trained context's are kept, those far below it divided by `factor`, those between blended.
    Every step is rounded to float32 as in llama.cpp b11434, conversion/llama.py (generate_extra_tensors), where torch
    divides a number by a tensor by multiplying with its reciprocal. torch's powers may be off by their last bit.
    """
    scaling = hparams.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    factor = scaling.parameters.get("factor", 8.0)
    low_factor = scaling.parameters.get("low_freq_factor", 1.0)
    high_factor = scaling.parameters.get("high_freq_factor", 4.0)
    n_ctx = scaling.parameters.get("original_max_position_embeddings", 8192)
    import numpy as np

    f32 = np.float32
    exponents = np.arange(0, hparams.head_dim, 2, dtype=f32) / f32(hparams.head_dim)
    powers = np.power(np.float64(f32(hparams.rope_base)), exponents.astype(np.float64)).astype(f32)
    frequencies = f32(1) / powers
    wavelengths = (f32(1) / frequencies) * f32(2 * np.pi)
    smooth = ((f32(1) / wavelengths) * f32(n_ctx) - f32(low_factor)) / f32(high_factor - low_factor)
    blended = f32(1) / ((f32(1) - smooth) / f32(factor) + smooth)
    factors = np.where(wavelengths > f32(n_ctx / low_factor), f32(factor), blended)
    return np.where(wavelengths < f32(n_ctx / high_factor), f32(1), factors).astype(f32)
