"""Importance matrices in both formats of llama-imatrix, written by hand so that no reader under test is involved."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Entries = Mapping[str, tuple[np.ndarray, Sequence[float]]]
"""Name -> (sums of squares of the inputs, f32 (n_matrices, n_cols); counts, one per matrix or one for all)."""


def random_entries(shapes: Mapping[str, tuple[int, ...]], seed: int = 5) -> dict[str, tuple[np.ndarray, list[float]]]:
    """Sums that differ much over the columns, as activations make them; the same on every machine.

    shapes: of the weights, output dimension first; of eight experts the fourth was never used.
    """
    rng = np.random.default_rng(seed)
    entries = {}
    for name, shape in shapes.items():
        n_matrices = int(np.prod(shape[:-2]))
        counts = [0.0 if n_matrices == 8 and i == 3 else float(512 + 7 * i) for i in range(n_matrices)]
        uniform = rng.random((n_matrices, shape[-1]), dtype=np.float32)
        squared = uniform * uniform
        entries[name] = (squared * squared * np.array(counts, np.float32)[:, None], counts)
    return entries


def write_gguf(path: Path, entries: Entries, *, chunks: int = 4, datasets: Sequence[str] = ("wiki.txt",)) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "imatrix")
    # llama-imatrix states no architecture.
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", list(datasets))
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in entries.items():
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", np.array(counts, np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dat_bytes(entries: Entries, *, trailer: bytes | None = None, chunks: int = 4, dataset: str = "wiki.txt") -> bytes:
    """The older format: means times the number of calls. Counts of all matrices alike."""
    parts = [struct.pack("<i", len(entries))]
    for name, (sums, counts) in entries.items():
        label = name.encode()
        calls = 3
        used = np.array(counts, np.float32).reshape(-1, 1)
        means = np.where(used > 0, sums, 1) / np.where(used > 0, used, 1) * np.float32(calls)
        means = means.astype("<f4")
        parts.append(struct.pack(f"<i{len(label)}sii", len(label), label, calls, means.size) + means.tobytes())
    if trailer is None:
        trailer = struct.pack(f"<ii{len(dataset)}s", chunks, len(dataset), dataset.encode())
    return b"".join(parts) + trailer


def write_dat(path: Path, entries: Entries, **options: Any) -> None:
    path.write_bytes(dat_bytes(entries, **options))
