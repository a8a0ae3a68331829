"""The two orders of the rows of a fused QKV: all of q, then k, then v; or those of each group of heads together.

Lit-GPT kept groups together until the end of 2024 (LitGPT 0.5.4), gpt_neox and falcon always do. Source: LitGPT
0.5.13, scripts/convert_hf_checkpoint.py (qkv_reassemble).
"""

from __future__ import annotations

from array import array


def grouped_from_split(n_q: int, n_kv: int, head_size: int) -> array[int]:
    """index with grouped row r = split row index[r]. n_q, n_kv: rows of q, and of k. Holds n_q + 2 n_kv numbers."""
    n_groups = n_kv // head_size
    q_rows = n_q // n_groups
    index = array("q")
    for group in range(n_groups):
        index.extend(range(group * q_rows, (group + 1) * q_rows))
        for begin in (n_q, n_q + n_kv):
            index.extend(range(begin + group * head_size, begin + (group + 1) * head_size))
    return index


def split_from_grouped(n_q: int, n_kv: int, head_size: int) -> array[int]:
    """index with split row r = grouped row index[r]; the inverse of `grouped_from_split`."""
    return inverse(grouped_from_split(n_q, n_kv, head_size))


def inverse(index: array[int]) -> array[int]:
    """Of a permutation: result[index[r]] = r."""
    result = array("q", bytes(8 * len(index)))
    for row, at in enumerate(index):
        result[at] = row
    return result
