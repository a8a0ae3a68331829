"""Values of GGUF's key-values, drawn from their bytes as stored. Checks nothing: the reader has walked over every byte.

Arrays stay bytes, for a vocabulary has hundreds of thousands of strings, and a hostile header millions.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import eq
from typing import Any, overload

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""struct codes by value type."""
BOOL, STRING, ARRAY = 7, 8, 9

_LENGTH = struct.Struct("<Q")
_HEAD = struct.Struct("<IQ")  # of an array: type of the items, their number
_SHOWN = 8


class GgufArray(Sequence[Any]):
    """An array of a GGUF file, whose items are made when they are asked for; equal to any sequence of equal items.

    Strings that are not UTF-8 are bytes. Copies and pickles of it are lists.
    """

    __slots__ = ("_count", "_items")

    def __init__(self, items: memoryview, count: int) -> None:
        self._items = items
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        places = range(self._count)[index]  # raises IndexError as a list does
        return [self._item(i) for i in places] if isinstance(places, range) else self._item(places)

    @abstractmethod
    def __iter__(self) -> Iterator[Any]: ...

    @abstractmethod
    def _item(self, index: int) -> Any: ...

    def tolist(self) -> list[Any]:
        return list(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        more = f", ... {self._count} in all" if self._count > _SHOWN else ""
        return f"[{', '.join(map(repr, islice(self, _SHOWN)))}{more}]"

    def __reduce__(self) -> tuple[Callable[..., list[Any]], tuple[list[Any]]]:
        return list, (self.tolist(),)


class _Numbers(GgufArray):
    __slots__ = ("_code", "_size")

    def __init__(self, items: memoryview, count: int, code: str) -> None:
        super().__init__(items, count)
        self._code = code
        self._size = struct.calcsize(code)

    def __iter__(self) -> Iterator[Any]:
        return (item for [item] in struct.iter_unpack(f"<{self._code}", self._items))

    def _item(self, index: int) -> Any:
        [item] = struct.unpack_from(f"<{self._code}", self._items, index * self._size)
        return item

    def tolist(self) -> list[Any]:
        return list(struct.unpack(f"<{self._count}{self._code}", self._items))


class _Varying(GgufArray):
    """Items of several lengths, one behind the other; where they begin is only looked up for one that is asked for."""

    __slots__ = ("_begins",)

    def __init__(self, items: memoryview, count: int) -> None:
        super().__init__(items, count)
        self._begins: array[int] | None = None

    @abstractmethod
    def _end(self, begin: int) -> int: ...

    @abstractmethod
    def _made(self, begin: int, end: int) -> Any: ...

    def __iter__(self) -> Iterator[Any]:
        begin = 0
        for _ in range(self._count):
            end = self._end(begin)
            yield self._made(begin, end)
            begin = end

    def _item(self, index: int) -> Any:
        if self._begins is None:
            self._begins = array("I")
            begin = 0
            for _ in range(self._count):
                self._begins.append(begin)
                begin = self._end(begin)
        begin = self._begins[index]
        return self._made(begin, self._end(begin))


class _Strings(_Varying):
    __slots__ = ()

    def __iter__(self) -> Iterator[str | bytes]:
        """As any other, without two calls for each string."""
        items, length_at, at = self._items, _LENGTH.unpack_from, 0
        for _ in range(self._count):
            [length] = length_at(items, at)
            begin = at + _LENGTH.size
            at = begin + length
            try:
                yield str(items[begin:at], "utf-8")
            except UnicodeDecodeError:
                yield bytes(items[begin:at])

    def _end(self, begin: int) -> int:
        return _string_end(self._items, begin)

    def _made(self, begin: int, end: int) -> str | bytes:
        return _text(self._items[begin + _LENGTH.size : end])


class _Arrays(_Varying):
    __slots__ = ()

    def _end(self, begin: int) -> int:
        return _array_end(self._items, begin)

    def _made(self, begin: int, end: int) -> GgufArray:
        return _array(self._items[begin:end])

    def tolist(self) -> list[Any]:
        return [item.tolist() for item in self]


def value_of(stored: memoryview) -> Any:
    """A number, a boolean, text, or a GgufArray. stored: the type of the value, then the value."""
    value_type, value = int.from_bytes(stored[:4], "little"), stored[4:]
    if value_type == ARRAY:
        return _array(value)
    if value_type == STRING:
        return _text(value[_LENGTH.size :])
    [number] = struct.unpack(f"<{SCALARS[value_type]}", value)
    return number


def _array(stored: memoryview) -> GgufArray:
    item_type, count = _HEAD.unpack_from(stored)
    items = stored[_HEAD.size :]
    if item_type in SCALARS:
        return _Numbers(items, count, SCALARS[item_type])
    return _Strings(items, count) if item_type == STRING else _Arrays(items, count)


def _text(raw: memoryview) -> str | bytes:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return bytes(raw)


def _string_end(raw: memoryview, begin: int) -> int:
    [length] = _LENGTH.unpack_from(raw, begin)
    return begin + _LENGTH.size + int(length)


def _array_end(raw: memoryview, begin: int) -> int:
    item_type, count = _HEAD.unpack_from(raw, begin)
    end = begin + _HEAD.size
    if item_type in SCALARS:
        return end + int(count) * struct.calcsize(f"<{SCALARS[item_type]}")
    end_of = _string_end if item_type == STRING else _array_end
    for _ in range(count):
        end = end_of(raw, end)
    return end
