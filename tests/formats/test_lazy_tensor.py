"""Views of lazy tensors against the same steps in NumPy, and against the native engine's reading."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastconv.checkpoint import LazyTensor
from fastconv.checkpoint.storage import ArrayStorage
from tests.formats.format_builders import gathered

MATRIX = np.arange(60, dtype="<f4").reshape(6, 10)


def lazy(values: np.ndarray, name: str = "w") -> LazyTensor:
    """A lazy tensor on the array's bytes with the array's own strides."""
    base = values
    while base.base is not None:
        base = base.base
    offset = values.__array_interface__["data"][0] - base.__array_interface__["data"][0] if values.size else 0
    strides = [stride // values.itemsize for stride in values.strides]
    return LazyTensor.stored(name, "f32", values.shape, ArrayStorage(base), offset, strides)


def native(tensor: LazyTensor) -> np.ndarray:
    return tensor.numpy()


@pytest.mark.parametrize("read", [gathered, native])
@pytest.mark.parametrize(
    "values",
    [
        MATRIX,
        MATRIX.T,
        MATRIX[1:4, 2:9:3],
        MATRIX[:, 3],
        MATRIX[4],
        MATRIX[2, 2:3],
        MATRIX.reshape(2, 3, 10),
        MATRIX.reshape(2, 3, 10)[:, :, ::2],
        MATRIX[:3, None, :],
        np.broadcast_to(MATRIX[:1], (5, 10)),
        np.array(7, "<f4"),
    ],
    ids=lambda values: f"{values.shape} {values.strides}",
)
def test_strides(values: np.ndarray, read: Callable[[LazyTensor], np.ndarray]) -> None:
    tensor = lazy(values)
    assert tensor.n_elements == values.size
    np.testing.assert_array_equal(read(tensor), values)


def test_strides_that_do_not_fold() -> None:
    with pytest.raises(ValueError, match=r"w: strides \(4, 8, 1\) of shape \(2, 3, 4\) do not fold into rows"):
        lazy(np.zeros((3, 2, 4), "<f4").transpose(1, 0, 2))


ROWS = st.lists(st.integers(0, 5), min_size=1, max_size=9).map(np.array)


@given(first=ROWS, data=st.data())
def test_rows_of_rows(first: np.ndarray, data: st.DataObject) -> None:
    second = np.array(data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, max_size=9)))
    for values in (MATRIX, MATRIX.T[:6], MATRIX[:, 3], MATRIX.reshape(3, 2, 10)):
        view = lazy(values).with_rows(first).with_rows(second)
        rows = values if values.ndim < 3 else MATRIX  # leading dimensions are folded
        expected = rows[first][second]
        assert view.shape == expected.shape
        np.testing.assert_array_equal(gathered(view), expected)
        np.testing.assert_array_equal(native(view), expected)


@given(order=st.permutations(range(6)))
def test_a_view_undone_is_the_tensor_itself(order: list[int]) -> None:
    there = np.array(order)
    for values in (MATRIX, MATRIX[:, 3]):
        tensor = lazy(values)
        back = tensor.with_rows(there).with_rows(np.argsort(there))
        assert back.rows is None
        assert (back.shape, back.n_rows, back.n_cols) == (tensor.shape, tensor.n_rows, tensor.n_cols)
        assert back.pieces[0].offset == tensor.pieces[0].offset
        np.testing.assert_array_equal(native(back), values)


@given(data=st.data(), axis=st.sampled_from([0, 1]), order=st.permutations(range(6)))
def test_joined(data: st.DataObject, axis: int, order: list[int]) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(1, MATRIX.shape[axis] - 1), max_size=3, unique=True)))
    parts = [np.ascontiguousarray(part) for part in np.split(MATRIX, cuts, axis)]
    joined = LazyTensor.joined("w", [lazy(part) for part in parts], axis)
    assert joined.shape == MATRIX.shape
    np.testing.assert_array_equal(gathered(joined), MATRIX)
    np.testing.assert_array_equal(native(joined), MATRIX)
    np.testing.assert_array_equal(native(joined.with_rows(np.array(order))), MATRIX[order])
    np.testing.assert_array_equal(native(joined.transposed()), MATRIX.T)


@given(order=st.permutations(range(3)))
def test_joined_rows_keep_each_parts_order(order: list[int]) -> None:
    parts = [lazy(MATRIX[:3]).with_rows(np.array(order)), lazy(MATRIX[3:])]
    joined = LazyTensor.joined("w", parts, 0)
    expected = np.concatenate([MATRIX[:3][order], MATRIX[3:]])
    np.testing.assert_array_equal(native(joined), expected)
    vectors = [lazy(MATRIX[0]).with_rows(np.arange(10)[::-1]), lazy(MATRIX[1, :4])]
    joined = LazyTensor.joined("w", vectors, 0)
    assert joined.shape == (14,)
    np.testing.assert_array_equal(native(joined).ravel(), np.concatenate([MATRIX[0, ::-1], MATRIX[1, :4]]))


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not join along axis 0"):
        LazyTensor.joined("w", [lazy(MATRIX), lazy(MATRIX[:, :3])], 0)
    with pytest.raises(ValueError, match="do not join along axis 1"):
        LazyTensor.joined("w", [lazy(MATRIX), lazy(MATRIX[:3])], 1)
    with pytest.raises(ValueError, match="rearranged rows cannot be joined along columns"):
        LazyTensor.joined("w", [lazy(MATRIX), lazy(MATRIX).with_rows(np.arange(6)[::-1])], 1)


def test_transposed() -> None:
    np.testing.assert_array_equal(native(lazy(MATRIX).transposed()), MATRIX.T)
    np.testing.assert_array_equal(native(lazy(MATRIX).transposed().transposed()), MATRIX)
    np.testing.assert_array_equal(native(lazy(MATRIX).transposed().with_rows(np.array([3, 1]))), MATRIX.T[[3, 1]])
    for tensor in (lazy(MATRIX[0]), lazy(MATRIX).with_rows(np.array([1, 0]))):
        with pytest.raises(ValueError, match="only a 2-D tensor with its rows in order can be transposed"):
            tensor.transposed()


def test_part_of_the_rows() -> None:
    np.testing.assert_array_equal(lazy(MATRIX).numpy(2, 4), MATRIX[2:4])
    np.testing.assert_array_equal(lazy(MATRIX).numpy(5), MATRIX[5:])


def test_renamed_and_files() -> None:
    tensor = lazy(MATRIX).renamed("v")
    assert (tensor.name, tensor.files, tensor.n_bytes) == ("v", (), 240)
