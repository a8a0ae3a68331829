"""A tensor whose bytes stay in their file until its tile is converted, and the views that rename and rearrange it.

Every view is a new description: nothing is read or copied. Views compose, and a view that undoes another leaves the
original description behind, so that Meta -> canonical -> GGUF is the identity.
"""

from __future__ import annotations

import itertools
import math
import operator
from array import array
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from fastconv.checkpoint.foreign_types import stored_bytes
from fastconv.checkpoint.storage import FileStorage, Storage, input_changed
from fastconv.errors import CheckpointError
from fastconv.record import record
from fastconv.types import TYPES

if TYPE_CHECKING:
    import numpy as np

    from fastconv import _native

_Seen = TypeVar("_Seen")


@record
class Piece:
    """A strided rectangle of one storage, and where it stands in the tensor's stored matrix.

    type: element or block type name. offset: bytes from the storage's start to element (0, 0). row_stride, col_stride:
    elements (for block types col_stride is 1 and row_stride a multiple of the block). row, col: place of element (0, 0)
    in the stored matrix; n_rows, n_cols: extent.
    """

    storage: Storage
    type: str
    offset: int
    row_stride: int
    col_stride: int
    row: int
    n_rows: int
    col: int
    n_cols: int


@record
class LazyTensor:
    """A named tensor that is drawn, row by row, from pieces of storages.

    shape: logical shape, output dimension first as in NumPy. n_rows, n_cols: the same elements as a matrix; a 1-D
    tensor is one row, or one column once its elements have been rearranged. rows: row r is stored row rows[r]; None:
    all stored rows in order; an array of int64, for NumPy takes longer to import than most conversions to prepare.
    dtype: the type name of the pieces (of the first, should they differ).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_rows: int
    n_cols: int
    pieces: tuple[Piece, ...]
    rows: array[int] | None = None

    @classmethod
    def stored(
        cls,
        name: str,
        dtype: str,
        shape: Sequence[int],
        storage: Storage,
        offset: int,
        strides: Sequence[int] | None = None,
    ) -> LazyTensor:
        """A tensor at `offset` bytes of `storage`; strides in elements, default: contiguous.

        Leading dimensions of a tensor with more than two are folded into rows, which needs them to be contiguous among
        themselves: raises ValueError otherwise. The caller has checked that all elements lie inside the storage.
        """
        shape = tuple(shape)
        n_cols = shape[-1] if shape else 1
        n_rows = math.prod(shape[:-1])
        if strides is None:
            row_stride, col_stride = n_cols, 1
        else:
            col_stride = strides[-1] if shape else 1
            leading = [(n, stride) for n, stride in zip(shape[:-1], strides, strict=False) if n != 1]
            row_stride = leading[-1][1] if leading else n_cols
            for (_, outer), (n, inner) in itertools.pairwise(leading):
                if outer != n * inner:
                    raise ValueError(f"{name}: strides {tuple(strides)} of shape {shape} do not fold into rows")
        piece = Piece(storage, dtype, offset, row_stride, col_stride, 0, n_rows, 0, n_cols)
        return cls(name, dtype, shape, n_rows, n_cols, (piece,))

    def renamed(self, name: str) -> LazyTensor:
        return replace(self, name=name)

    def with_rows(self, index: Iterable[int]) -> LazyTensor:
        """Row r of the view is row index[r] of this tensor (for a 1-D tensor: element). index: (n,) integers."""
        matrix = self.as_column() if len(self.shape) == 1 else self
        rows = index if isinstance(index, array) else array("q", index)
        if matrix.rows is not None:
            rows = array("q", map(matrix.rows.__getitem__, rows))
        n_stored = max(piece.row + piece.n_rows for piece in matrix.pieces)
        identity = len(rows) == n_stored and all(map(operator.eq, rows, range(n_stored)))
        shape = self._shape_of_rows(len(rows))
        view = replace(matrix, shape=shape, n_rows=len(rows), rows=None if identity else rows)
        return view._as_row() if identity and len(shape) == 1 else view

    def row_range(self, start: int, stop: int) -> LazyTensor:
        """Rows [start, stop) of this tensor (for a 1-D tensor: elements)."""
        if (start, stop) == (0, self.shape[0]):
            return self
        matrix = self.as_column() if len(self.shape) == 1 else self
        shape = self._shape_of_rows(stop - start)
        if matrix.rows is not None:
            return replace(matrix, shape=shape, n_rows=stop - start, rows=matrix.rows[start:stop])
        pieces = []
        for p in matrix.pieces:
            begin, end = max(p.row, start), min(p.row + p.n_rows, stop)
            if begin < end:
                offset = p.offset + (stored_bytes(p.type, (begin - p.row) * p.row_stride) or 0)
                pieces.append(replace(p, offset=offset, row=begin - start, n_rows=end - begin))
        view = replace(matrix, shape=shape, n_rows=stop - start, pieces=tuple(pieces))
        return view._as_row() if len(shape) == 1 and len(pieces) == 1 else view

    def transposed(self) -> LazyTensor:
        """The transpose of a 2-D tensor. Raises ValueError for other ranks and for rearranged rows."""
        if len(self.shape) != 2 or self.rows is not None:
            raise ValueError(f"{self.name}: only a 2-D tensor with its rows in order can be transposed")
        pieces = tuple(_turned(p, p.col_stride, p.row_stride) for p in self.pieces)
        return replace(self, shape=self.shape[::-1], n_rows=self.n_cols, n_cols=self.n_rows, pieces=pieces)

    @classmethod
    def joined(cls, name: str, parts: Sequence[LazyTensor], axis: int) -> LazyTensor:
        """Parts put one after the other along rows (axis 0) or columns (axis 1).

        Parts of axis 1 have their rows in order. Raises ValueError if the parts do not fit together.
        """
        first = parts[0]
        if len(first.shape) == 1 and axis == 0:
            parts = [part.as_column() for part in parts]
        other = 1 - axis
        if any((p.n_rows, p.n_cols)[other] != (first.n_rows, first.n_cols)[other] for p in parts if p.shape[1:]):
            raise ValueError(f"{name}: parts of shapes {[p.shape for p in parts]} do not join along axis {axis}")
        pieces: list[Piece] = []
        rearranged = any(part.rows is not None for part in parts)
        rows = array("q")
        at_row = at_col = 0
        for part in parts:
            if axis == 1 and part.rows is not None:
                raise ValueError(f"{name}: a part with rearranged rows cannot be joined along columns")
            pieces += [replace(p, row=p.row + at_row, col=p.col + at_col) for p in part.pieces]
            n_stored = max(p.row + p.n_rows for p in part.pieces)
            if rearranged:
                rows.extend(at_row + row for row in (range(n_stored) if part.rows is None else part.rows))
            if axis == 0:
                at_row += n_stored
            else:
                at_col += part.n_cols
        if axis == 0:
            n_rows, n_cols = sum(p.n_rows for p in parts), parts[0].n_cols
            shape: tuple[int, ...] = (n_rows, *first.shape[1:])
            index = rows if rearranged else None
        else:
            n_rows, n_cols = first.n_rows, at_col
            shape = (n_rows, n_cols)
            index = None
        tensor = cls(name, first.dtype, shape, n_rows, n_cols, tuple(pieces), index)
        return tensor._as_row() if len(shape) == 1 and index is None and len(pieces) == 1 else tensor

    @property
    def n_elements(self) -> int:
        return self.n_rows * self.n_cols

    @property
    def n_bytes(self) -> int:
        """Bytes that its elements take as stored; 0 if its type is unknown."""
        return sum(stored_bytes(p.type, p.n_rows * p.n_cols) or 0 for p in self.pieces)

    @property
    def is_packed(self) -> bool:
        """Whether its elements lie one after the other, in order and in one place, as files store tensors."""
        piece = self.pieces[0]
        in_rows = piece.col_stride == 1 or piece.n_cols <= 1
        in_order = piece.row_stride == piece.n_cols or piece.n_rows <= 1
        return len(self.pieces) == 1 and self.rows is None and in_rows and in_order

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the input files that hold it, each once."""
        return tuple(dict.fromkeys(p.storage.path for p in self.pieces if isinstance(p.storage, FileStorage)))

    def _shape_of_rows(self, n: int) -> tuple[int, ...]:
        """Of n rows in an order of their own, which leading dimensions need not divide any more."""
        return (n, *self.shape[1:]) if len(self.shape) <= 2 else (n, self.n_cols)

    def as_column(self) -> LazyTensor:
        """A 1-D tensor as a matrix of one column; its shape stays."""
        if self.n_cols == 1:
            return self
        pieces = tuple(_turned(p, p.col_stride, 1) for p in self.pieces)
        return replace(self, n_rows=self.n_cols, n_cols=1, pieces=pieces)

    def _as_row(self) -> LazyTensor:
        pieces = tuple(_turned(p, p.n_rows, p.row_stride) for p in self.pieces)
        return replace(self, n_rows=1, n_cols=self.n_rows, pieces=pieces)

    def native(self) -> _native.Source:
        """The same description for the native engine.

        Raises CheckpointError for a file that cannot be mapped and for types that the type table does not know.
        """
        from fastconv import _native

        self._check_types(TYPES)
        pieces = [_native_piece(piece) for piece in self.pieces]
        return _native.Source(n_rows=self.n_rows, n_cols=self.n_cols, pieces=pieces, rows=self.rows)

    def numpy(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start, stop) of the matrix decoded to float32, (stop - start, n_cols); all of it in its own shape.

        Raises CheckpointError as `native`, for types that are only ever copied, and for a file that has changed.
        """
        from fastconv import _native

        matrix = self._look(_native.read_rows, start, self.n_rows if stop is None else stop)
        return matrix.reshape(self.shape) if start == 0 and stop is None else matrix

    def is_zero(self, start: int, stop: int) -> bool:
        """Whether all elements of rows [start, stop) are zero, of any sign. Raises CheckpointError as `numpy`."""
        from fastconv import _native

        return self._look(_native.is_zero, start, stop)

    def _look(self, look: Callable[[_native.Source, int, int], _Seen], start: int, stop: int) -> _Seen:
        from fastconv import _native

        self._check_types([name for name, info in TYPES.items() if info.decodes])
        try:
            return look(self.native(), start, stop)
        except _native.InputChanged as error:
            raise input_changed(error.args, [piece.storage for piece in self.pieces]) from None

    def _check_types(self, known: Container[str]) -> None:
        for piece in self.pieces:
            if piece.type not in known:
                raise CheckpointError(
                    "has a type that cannot be decoded", file=piece.storage.path, tensor=self.name, found=piece.type
                )


def _turned(p: Piece, row_stride: int, col_stride: int) -> Piece:
    """Rows and columns change places; the strides are those of the result."""
    return Piece(p.storage, p.type, p.offset, row_stride, col_stride, p.col, p.n_cols, p.row, p.n_rows)


def _native_piece(piece: Piece) -> _native.Piece:
    from fastconv import _native

    storage = piece.storage
    place = (piece.type, piece.offset, piece.row_stride, piece.col_stride)
    extent = (piece.row, piece.n_rows, piece.col, piece.n_cols)
    if not isinstance(storage, FileStorage):
        return _native.Piece(storage.array, *place, *extent)
    try:
        return _native.Piece(storage.fileno(), *place, *extent)
    except OSError as error:
        raise storage.unmappable(error) from None
    except ValueError:
        storage.check_unchanged()  # one that shrank no longer holds what its header says
        raise
