"""What the engine refuses before it reads an element: one case per rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _native
from fastconv.engine import _native_job
from tests.engine.tensors import in_memory, job, values

STORAGE = np.zeros(1024, np.uint8)
WHOLE = {
    "storage": STORAGE,
    "type": "f32",
    "offset": 0,
    "row_stride": 16,
    "col_stride": 1,
    "row": 0,
    "n_rows": 16,
    "col": 0,
    "n_cols": 16,
}
HUGE = 2**62


def piece(**changes: Any) -> _native.Piece:
    return _native.Piece(**{**WHOLE, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 4}, "ends at byte 1028 of a storage of 1024"),
        ({"n_rows": 17}, "ends at byte 1088"),
        ({"row_stride": 17}, "ends at byte"),
        ({"col_stride": 2}, "ends at byte"),
        ({"type": "f64"}, "ends at byte 2048"),
        ({"offset": -4}, "negative"),
        ({"row_stride": -16}, "negative"),
        ({"row": -1}, "negative"),
        ({"n_cols": -1}, "negative"),
        ({"row_stride": HUGE}, "past 2\\^63"),
        ({"n_rows": HUGE, "row_stride": HUGE}, "past 2\\^63"),
        ({"n_cols": HUGE, "col_stride": 3}, "past 2\\^63"),
        ({"offset": 2**63 - 1}, "past 2\\^63"),
        ({"row": 2**63 - 1}, "past 2\\^63"),
        ({"n_rows": HUGE, "row_stride": 0, "n_cols": HUGE, "col_stride": 1}, "past 2\\^63"),
        ({"type": "q9_9"}, "q9_9. is unknown"),
        ({"type": "q8_0", "n_cols": 16}, "does not divide into q8_0 blocks"),
        ({"type": "q8_0", "n_cols": 32, "row_stride": 48, "n_rows": 2}, "does not divide"),
        ({"type": "q8_0", "n_cols": 32, "row_stride": 32, "col": 16}, "does not divide"),
        ({"type": "q8_0", "n_cols": 32, "row_stride": 32, "col_stride": 2}, "does not divide"),
        ({"type": "q8_0", "n_cols": 32, "row_stride": 32, "n_rows": 31}, "ends at byte 1054"),
        ({"storage": np.zeros((16, 32), np.float32)[:, ::2]}, "not C-contiguous"),
    ],
)
def test_piece(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        piece(**changes)


def test_piece_that_just_fits() -> None:
    piece()
    piece(type="q8_0", n_cols=32, row_stride=32, n_rows=30)
    piece(n_rows=0, offset=5000)


def test_storage_is_a_descriptor_or_an_array() -> None:
    with pytest.raises(TypeError, match="neither"):
        piece(storage="weights.bin")
    with pytest.raises(OSError, match="descriptor"):
        piece(storage=987654)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([{"n_cols": 8}], "do not cover the 16 columns of stored row 0"),
        ([{"n_cols": 8}, {"n_cols": 8, "col": 4}], "do not cover"),
        ([{"n_cols": 12}, {"n_cols": 8, "col": 8}], "do not cover"),
        ([{}, {}], "do not cover"),
        ([{"n_rows": 4}, {"n_rows": 4, "row": 8}], "stored row 4"),
        ([{"n_rows": 8}, {"n_rows": 8, "row": 4}], "stored row 4"),
        ([{"row": 1, "n_rows": 15}], "stored row 0"),
        ([{"n_rows": 8}], "hold 8 rows of 16"),
        ([], "hold 0 rows of 16"),
    ],
)
def test_source(pieces: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.Source(16, 16, [piece(**changes) for changes in pieces])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.arange(15), "15 entries for 16 rows"),
        (np.arange(16) - 1, "row index -1"),
        (np.arange(16) + 1, "row index 16 outside the 16"),
        (np.zeros((4, 4), np.int64), "one-dimensional"),
    ],
)
def test_row_index(rows: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.Source(16, 16, [piece()], rows)


def test_source_extent() -> None:
    with pytest.raises(ValueError, match="negative"):
        _native.Source(-1, 16, [piece()])
    with pytest.raises(ValueError, match=r"past 2\^63|too large"):
        _native.Source(HUGE, 16, [piece()], np.arange(16))


def source(n_rows: int, n_cols: int) -> _native.Source:
    return in_memory(values((n_rows, n_cols))).native()


@pytest.mark.parametrize(
    ("b", "a", "magnitude"),
    [((8, 4), (5, 16), None), ((7, 4), (4, 16), None), ((8, 4), (4, 15), None), ((8, 4), (4, 16), (1, 8))],
)
def test_delta_shapes(b: tuple[int, int], a: tuple[int, int], magnitude: tuple[int, int] | None) -> None:
    delta = _native.Delta(source(*b), source(*a), 1.0, magnitude and source(*magnitude))
    wrong = _native.Job("t", source(8, 16), [delta], [_native.Output(0, "f32", 0)])
    with pytest.raises(ValueError, match="does not fit 8 x 16"):
        _native.Run([wrong], [1], 1)


@pytest.mark.parametrize(
    ("sums", "counts", "message"),
    [
        ((1, 15), [1.0], "importance of 1 x 15 does not fit 8 x 16"),
        ((3, 16), [1.0] * 3, "importance of 3 x 16 does not fit"),
        ((0, 16), [], "does not fit"),
        ((2, 16), [1.0], "has 1 counts"),
        ((1, 16), [-1.0], "impossible count"),
        ((1, 16), [np.nan], "impossible count"),
        ((1, 16), [np.inf], "impossible count"),
    ],
)
def test_importance(sums: tuple[int, int], counts: list[float], message: str) -> None:
    importance = _native.Importance(source(*sums), counts)
    wrong = _native.Job("t", source(8, 16), [], [_native.Output(0, "f32", 0)], importance)
    with pytest.raises(ValueError, match=message):
        _native.Run([wrong], [1], 1)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (_native.Output(1, "f32", 0), "out of range"),
        (_native.Output(-1, "f32", 0), "out of range"),
        (_native.Output(0, "f32", -1), "offset"),
        (_native.Output(0, "f32", 2**63 - 1), "offset"),
        (_native.Output(0, "q4_0", 0), "rows of 16 do not divide into q4_0 blocks of 32"),
        (_native.Output(0, "f64", 0), "f64 cannot be encoded"),
    ],
)
def test_output(output: _native.Output, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.Run([_native.Job("t", source(8, 16), [], [output])], [1], 1)


def test_values_are_needed_where_blocks_are_not_copied() -> None:
    counts = _native.Source(2, 16, [piece(type="i32", n_rows=2)])
    with pytest.raises(ValueError, match="i32 cannot be decoded"):
        _native.Run([_native.Job("t", counts, [], [_native.Output(0, "f32", 0)])], [1], 1)
    with pytest.raises(ValueError, match="i64 cannot be encoded"):
        _native.Run([_native.Job("t", counts, [], [_native.Output(0, "i64", 0)])], [1], 1)
    delta = _native.Delta(source(2, 1), source(1, 16), 1.0)
    with pytest.raises(ValueError, match="i32 cannot be encoded"):
        _native.Run([_native.Job("t", counts, [delta], [_native.Output(0, "i32", 0)])], [1], 1)
    delta = _native.Delta(_native.Source(2, 16, [piece(type="i32", n_rows=2)]), source(16, 16), 1.0)
    with pytest.raises(ValueError, match="i32 cannot be decoded"):
        _native.Run([_native.Job("t", source(2, 16), [delta], [_native.Output(0, "f32", 0)])], [1], 1)
    with pytest.raises(ValueError, match="i32 cannot be decoded"):
        _native.read_rows(counts, 0, 1)


def test_run_options() -> None:
    native = _native_job(job(in_memory(values((2, 2))), "f32"))
    for changes, message in (({"threads": 0}, "thread"), ({"nonfinite": "skip"}, "skip"), ({"isa": "mmx"}, "isa|mmx")):
        with pytest.raises(ValueError, match=message):
            _native.Run([native], [1], **{"threads": 1, **changes})
    with pytest.raises(ValueError, match="no output"):
        _native.Run([_native.Job("t", source(2, 2), [], [])], [1], 1)
    with pytest.raises(OSError, match="descriptor"):
        _native.Run([native], [987654], 1)
