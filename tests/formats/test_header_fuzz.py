"""Small valid files of every format with bytes flipped, cut out or put in: they parse or raise CheckpointError."""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastconv.checkpoint import LazyTensor, open_checkpoint
from fastconv.checkpoint.foreign_types import ELEMENT_BITS
from fastconv.errors import CheckpointError
from tests.formats.format_builders import ZipBuilder
from tests.fuzz.seeds import SEEDS, VALUES


def torch_zip() -> bytes:
    file = io.BytesIO()
    shared = torch.arange(12.0).reshape(3, 4)
    module = torch.nn.Linear(2, 2)
    root = {"model": {"a": shared, "b": shared.T, "c": torch.ones(3).bfloat16(), **module.state_dict()}, "step": 3}
    torch.save(root, file)
    return file.getvalue()


VALID: dict[str, Callable[[], bytes]] = {
    "safetensors": lambda: SEEDS["safetensors"]()[0],
    "torch zip": torch_zip,
    "zip64": lambda: SEEDS["torch_zip"]()[1],
    "gguf": lambda: SEEDS["gguf"]()[0],
    "ggjt": lambda: SEEDS["ggjt"]()[0],
    "ggml": lambda: SEEDS["ggjt"]()[2],
}
BYTES = st.sampled_from([0, 1, 2, 0x28, 0x2E, 0x52, 0x63, 0x71, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)


@functools.cache
def valid(name: str) -> bytes:
    return VALID[name]()


@pytest.mark.parametrize("name", VALID)
def test_valid_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "model").write_bytes(valid(name))
    assert open_checkpoint(tmp_path / "model").tensors


@pytest.mark.parametrize("name", VALID)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_parses_or_is_refused(name: str, data: st.DataObject) -> None:
    raw = bytearray(valid(name))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["flip", "run", "cut", "put"]))
        if kind == "flip":
            raw[at] = data.draw(BYTES)
        elif kind == "run":
            raw[at : at + 8] = bytes([data.draw(BYTES)]) * len(raw[at : at + 8])
        elif kind == "cut":
            del raw[at : at + data.draw(st.integers(1, 16))]
        else:
            raw[at:at] = bytes([data.draw(BYTES)]) * data.draw(st.integers(1, 16))
        raw = raw or bytearray(1)
    check(bytes(raw))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_pickle_parses_or_is_refused(data: st.DataObject) -> None:
    """The pickle alone, in a sound archive: its CRC hides it from the other test."""
    raw = bytearray(SEEDS["pickle"]()[0])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        raw = raw or bytearray(1)
    check(ZipBuilder().add("a/data.pkl", bytes(raw)).add("a/data/0", VALUES).bytes())


def check(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model"
        file.write_bytes(raw)
        try:
            opened = open_checkpoint(file)
        except CheckpointError as error:
            refusal = str(error)
        else:
            for tensor in opened.tensors.values():
                check_inside(tensor, len(raw))
            return
    assert "\n" not in refusal
    refusal.encode()  # no lone surrogates


def check_inside(tensor: LazyTensor, file_size: int) -> None:
    [piece] = tensor.pieces
    assert 0 <= piece.offset <= file_size
    if piece.type in ELEMENT_BITS and tensor.n_elements:
        last = (piece.n_rows - 1) * piece.row_stride + (piece.n_cols - 1) * piece.col_stride
        assert piece.offset + (last + 1) * ELEMENT_BITS[piece.type] // 8 <= file_size
    elif piece.type not in ELEMENT_BITS:
        assert piece.offset + tensor.n_bytes <= file_size
