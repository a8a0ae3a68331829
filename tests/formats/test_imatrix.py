"""Importance matrices of llama-imatrix, GGUF and .dat: what they say, and one malformed file per rule."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.checkpoint.imatrix import read_imatrix
from fastconv.errors import CheckpointError, FastconvError
from tests import imatrices

SHAPES = {"blk.0.attn_q.weight": (8, 64), "blk.0.ffn_up_exps.weight": (4, 8, 32)}


def entry(name: str = "blk.0.attn_q.weight", calls: int = 1, values: tuple[float, ...] = (1.0, 2.0)) -> bytes:
    label = name.encode()
    return struct.pack(f"<i{len(label)}sii{len(values)}f", len(label), label, calls, len(values), *values)


def test_gguf(tmp_path: Path) -> None:
    entries = imatrices.random_entries(SHAPES)
    imatrices.write_gguf(tmp_path / "i.gguf", entries, chunks=7, datasets=("a.txt", "b.txt"))
    found = read_imatrix(tmp_path / "i.gguf")
    assert (found.n_chunks, found.datasets, found.path) == (7, (b"a.txt", b"b.txt"), str(tmp_path / "i.gguf"))
    assert found.entries.keys() == entries.keys()
    for name, (sums, counts) in entries.items():
        assert np.array_equal(found.entries[name].values(), sums.ravel())
        assert found.entries[name].counts == tuple(counts)


def test_counts_are_whole_numbers(tmp_path: Path) -> None:
    sums = np.ones((4, 32), np.float32)
    imatrices.write_gguf(tmp_path / "i.gguf", {"x.weight": (sums, [0.4, 0.5, 1.5, 2.4])})
    assert read_imatrix(tmp_path / "i.gguf").entries["x.weight"].counts == (0, 1, 2, 2)


def test_one_count_stands_for_all_matrices(tmp_path: Path) -> None:
    sums = np.arange(64, dtype=np.float32).reshape(4, 16)
    imatrices.write_gguf(tmp_path / "i.gguf", {"x.weight": (sums, [3])})
    importance = read_imatrix(tmp_path / "i.gguf").entries["x.weight"].importance(4, 16)
    assert importance.counts == (3, 3, 3, 3)
    assert importance.sums.shape == (4, 16)


@pytest.mark.parametrize(
    ("trailer", "chunks", "datasets"),
    [
        (b"", 0, ()),
        (struct.pack("<i", 9), 9, ()),
        (struct.pack("<ii", 9, 0), 9, ()),
        (struct.pack("<ii3s", 9, 3, b"a/b"), 9, (b"a/b",)),
    ],
)
def test_dat(tmp_path: Path, trailer: bytes, chunks: int, datasets: tuple[bytes, ...]) -> None:
    (tmp_path / "i.dat").write_bytes(struct.pack("<i", 2) + entry("a.weight", 5) + entry("b.weight", 1) + trailer)
    found = read_imatrix(tmp_path / "i.dat")
    assert (found.n_chunks, found.datasets) == (chunks, datasets)
    assert {name: e.counts for name, e in found.entries.items()} == {"a.weight": (5,), "b.weight": (1,)}
    assert found.entries["b.weight"].values().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (struct.pack("<i", 0), "impossible number of entries: found 0"),
        (struct.pack("<i", -1), "impossible number of entries"),
        (struct.pack("<i", 1 << 30) + entry(), "more entries than fit"),
        (struct.pack("<i", 2) + entry(), "more entries than fit|truncated"),
        (struct.pack("<ii", 1, -4) + bytes(16), "impossible number of bytes of a name"),
        (struct.pack("<ii", 1, 0) + bytes(16), "impossible number of bytes of a name"),
        (struct.pack("<ii", 1, 100) + bytes(200), "string that is too long: found 100"),
        (struct.pack("<ii", 1, 60) + bytes(8), "truncated|fit"),
        (struct.pack("<ii2s", 1, 2, b"\xff\xfe") + bytes(16), "not UTF-8"),
        (struct.pack("<i", 1) + entry(calls=-1), "impossible number of calls of blk.0.attn_q.weight: found -1"),
        (struct.pack("<i", 1) + entry(values=()), "impossible number of values of blk.0.attn_q.weight: found 0"),
        (struct.pack("<ii1sii", 1, 1, b"x", 1, 1 << 30) + bytes(8), "more values of x than fit"),
        (struct.pack("<i", 2) + entry() + entry(), "attn_q.weight: appears twice"),
        (struct.pack("<i", 1) + entry(calls=0), "its counts are 0"),
        (struct.pack("<i", 1) + entry(values=(1, float("nan"))), "not finite or negative, value 1: found nan"),
        (struct.pack("<i", 1) + entry(values=(float("inf"), 1)), "value 0: found inf"),
        (struct.pack("<i", 1) + entry(values=(1, -0.5)), "value 1: found -0.5"),
        (struct.pack("<i", 1) + entry() + struct.pack("<i", -1), "impossible number of chunks"),
        (struct.pack("<i", 1) + entry() + b"ab", "truncated"),
        (struct.pack("<i", 1) + entry() + struct.pack("<ii", 1, 9) + b"ab", "truncated"),
        (struct.pack("<i", 1) + entry() + struct.pack("<ii", 1, 1 << 20) + b"ab", "too long"),
        (struct.pack("<i", 1) + entry() + struct.pack("<ii", 1, 1) + b"ab", "more than its entries: found 1 bytes"),
    ],
)
def test_malformed_dat(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "i.dat").write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_imatrix(tmp_path / "i.dat")
    assert str(caught.value).startswith(str(tmp_path / "i.dat"))


def write_tensors(path: Path, tensors: dict[str, np.ndarray], **changes: Any) -> None:
    writer = gguf.GGUFWriter(path, "x")
    writer.kv_data[0].clear()
    keys = {"imatrix.datasets": ["a"], "imatrix.chunk_count": 1, "imatrix.chunk_size": 512} | changes
    for key, value in keys.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


ONES = np.ones((2, 32), np.float32)
TWO = np.full((2, 1), 2, np.float32)


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        (
            {"x.in_sum2": ONES, "x.counts": TWO},
            {"imatrix.datasets": None},
            "is no importance matrix: found no imatrix.d",
        ),
        ({"x.in_sum2": ONES, "x.counts": TWO}, {"imatrix.chunk_count": None}, "found no imatrix.chunk_count"),
        ({"x.in_sum2": ONES, "x.counts": TWO}, {"imatrix.chunk_size": True}, "found no imatrix.chunk_size"),
        ({"x.weight": ONES}, {}, "holds no importance of any tensor"),
        ({"x.in_sum2": ONES}, {}, "tensor x: lacks a part of its importance: expected x.counts"),
        ({"x.counts": TWO}, {}, "expected x.in_sum2"),
        ({"x.in_sum": ONES}, {}, "expected x.in_sum2"),
        ({"x.in_sum2": ONES, "x.counts": TWO, "x.in_sum": ONES[:1]}, {}, "sums of two lengths: found 32, expected 64"),
        ({"x.in_sum2": ONES.astype(np.float16), "x.counts": TWO}, {}, "x.in_sum2: is of the wrong type: found f16"),
        ({"x.in_sum2": ONES, "x.counts": TWO.astype(np.int32)}, {}, "x.counts: is of the wrong type: found i32"),
        ({"x.in_sum2": ONES, "x.counts": np.ones((3, 1), np.float32)}, {}, "counts that do not fit its sums: found 3"),
        ({"x.in_sum2": ONES, "x.counts": -TWO}, {}, "a count that is not finite or negative"),
        ({"x.in_sum2": ONES, "x.counts": TWO * np.float32(np.nan)}, {}, "a count that is not finite or negative"),
        ({"x.in_sum2": ONES, "x.counts": TWO * 0}, {}, "its counts are 0"),
        ({"x.in_sum2": -ONES, "x.counts": TWO}, {}, "value 0: found -1"),
        ({"x.in_sum2": ONES * np.float32(np.inf), "x.counts": TWO}, {}, "value 0: found inf"),
    ],
)
def test_malformed_gguf(tmp_path: Path, tensors: dict[str, np.ndarray], changes: dict[str, Any], message: str) -> None:
    write_tensors(tmp_path / "i.gguf", tensors, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_imatrix(tmp_path / "i.gguf")
    assert str(caught.value).startswith(str(tmp_path / "i.gguf"))


def test_a_model_is_none(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m.gguf", {"token_embd.weight": ONES}, **{"imatrix.datasets": None})
    with pytest.raises(CheckpointError, match="is no importance matrix"):
        read_imatrix(tmp_path / "m.gguf")


@given(at=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans(), kind=st.sampled_from(("gguf", "dat")))
@settings(max_examples=150, deadline=None)
def test_damaged_files_are_read_or_refused(
    at: int, value: int, cut: bool, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    (imatrices.write_gguf if kind == "gguf" else imatrices.write_dat)(path, imatrices.random_entries(SHAPES))
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at] = value
    path.write_bytes(data[:at] if cut else data)
    with contextlib.suppress(FastconvError):
        for found in read_imatrix(path).entries.values():
            assert len(found.values()) == found.n_values
