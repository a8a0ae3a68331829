"""ggml's own quantizers, from the library inside the pywhispercpp wheel: what "ggml's bytes" means."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
from pathlib import Path

import numpy as np

from fastconv import _native

TYPES = {info.name: info for info in _native.types()}
# The types of blocks that ggml stores, without and with a grid of points; past the range of the latter ggml aborts.
BLOCKS = [
    "q8_0",
    "q5_1",
    "q5_0",
    "q4_1",
    "q4_0",
    "q6_k",
    "q5_k",
    "q4_k",
    "q3_k",
    "q2_k",
    "iq4_nl",
    "iq4_xs",
    "tq2_0",
    "tq1_0",
]
IQ3 = ["iq3_s", "iq3_xxs"]
IQ2 = ["iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s"]
# The wheel's ggml adds up the splits of a block in another order than that of llama.cpp b11434, which is ours:
# tests/kernels/test_iq1.py has what b11434 writes.
OF_ANOTHER_RELEASE = ("iq1_m",)


@functools.cache
def library() -> ctypes.CDLL:
    files = importlib.metadata.files("pywhispercpp") or []
    paths = [Path(str(file.locate())) for file in files if file.name.startswith(("libggml-base", "ggml-base"))]
    library = ctypes.CDLL(str(max(paths, key=lambda path: len(path.parts))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library


def quantize_into(x: np.ndarray, type: str, out: np.ndarray, importance: np.ndarray | None = None) -> None:
    """x: (rows, columns) float32, C-contiguous; out: (rows, row bytes) uint8; importance: (columns,) float32."""
    n_rows, n_cols = x.shape
    assert importance is None or (importance.shape == (n_cols,) and importance.dtype == np.float32)
    weights = None if importance is None else importance.ctypes.data
    written = library().ggml_quantize_chunk(
        TYPES[type].ggml_type, x.ctypes.data, out.ctypes.data, 0, n_rows, n_cols, weights
    )
    assert written == out.size


def quantize(x: np.ndarray, type: str, importance: np.ndarray | None = None) -> np.ndarray:
    info = TYPES[type]
    out = np.empty((x.shape[0], x.shape[1] // info.block_size * info.block_bytes), np.uint8)
    quantize_into(x, type, out, importance)
    return out
