"""Rows and importances for types whose elements go to points of a grid (IQ1, IQ2, IQ3), and their blocks by others."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from tests.kernels import ggml, rows
from tests.kernels.test_encode_weighted import importances
from tests.oracle import iq1, iq3

TYPES = [*ggml.IQ2, *ggml.IQ3]
AS_THE_WHEEL = [name for name in TYPES if name not in ggml.OF_ANOTHER_RELEASE]
WITHOUT_IMPORTANCE = [name for name in TYPES if not ggml.TYPES[name].needs_importance]
ORACLES = {"iq1_m": iq1.iq1_m, "iq1_s": iq1.iq1_s, "iq3_xxs": iq3.iq3_xxs, "iq3_s": iq3.iq3_s}
# Where weights, errors or sums are infinite ggml aborts.
BEYOND = {"cubes overflow", "squares overflow", "near f32 overflow", "any finite bits"}


def within(type: str) -> Mapping[str, np.ndarray]:
    """Kinds of rows of 1536 columns."""
    return _within_iq3() if type in ggml.IQ3 else _within_iq2()


@functools.cache
def _within_iq2() -> dict[str, np.ndarray]:
    kinds = {name: x[:3] for name, x in rows.kinds().items() if name not in BEYOND}
    rng = np.random.default_rng(20231018)
    # The sign of an element that counts for nothing gives way, and its level is far below what ggml's rounding is for.
    sunk = np.abs(rng.standard_normal((3, 1536))) * 1e-6
    sunk[:, 5::8] = -1e6
    return kinds | {"far below": sunk.astype(np.float32)}


@functools.cache
def _within_iq3() -> dict[str, np.ndarray]:
    kinds = {name: x[:2] for name, x in rows.kinds().items() if name not in BEYOND}
    rng = np.random.default_rng(20240112)
    # Signs give way where they count for nothing, on elements so far below that ggml's rounding wraps around.
    sunk = np.abs(rng.standard_normal((2, 1536))) * 1e-6
    sunk[:, 5::8] = -(10.0 ** rng.uniform(0, 6, sunk[:, 5::8].shape))
    zero_blocks = rng.standard_normal((2, 48, 32)) * (rng.random((2, 48, 1)) < 0.6)
    # The least element of eight decides by its sign alone, and ties go to the first.
    even = rng.choice([-0.5, 0.5, 1, -1, 0.0, -0.0], (2, 1536))
    made = {"sunk": sunk, "blocks of zeros": zero_blocks.reshape(2, 1536), "few values": even}
    return kinds | {name: x.astype(np.float32) for name, x in made.items()}


@functools.cache
def columns() -> dict[str, np.ndarray | None]:
    kinds = {name: values for name, values in importances().items() if values.max() < 1e15}
    none_for_some = np.where(np.arange(1536) % 8 == 5, 0, kinds["uniform"]).astype(np.float32)
    return {"without": None, **kinds, "none for some": none_for_some}


@np.errstate(all="ignore")
def by_oracle(x: np.ndarray, type: str, importance: np.ndarray | None) -> np.ndarray:
    each = None if importance is None else np.tile(importance, (len(x), 1)).reshape(-1, 256)
    return ORACLES[type](x.reshape(-1, 256), each).reshape(len(x), -1)


def blocks(x: np.ndarray, type: str, importance: np.ndarray | None) -> np.ndarray:
    """As ggml writes them; where the wheel's is of another release, as the oracle does."""
    truth = ggml.quantize if type in AS_THE_WHEEL else by_oracle
    return truth(x, type, importance)
