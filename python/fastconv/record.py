"""Records: dataclasses whose fields stay as they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        return lambda decorated: decorated


_Class = TypeVar("_Class", bound=type)


@overload
def record(cls: _Class, /) -> _Class: ...
@overload
def record(*, eq: bool = False, kw_only: bool = False) -> Callable[[_Class], _Class]: ...


@dataclass_transform(frozen_default=True, eq_default=False)
def record(cls: Any = None, /, *, eq: bool = False, kw_only: bool = False) -> Any:
    """A dataclass with slots that is frozen for type checkers. eq: compares and hashes by value, not by identity.

    dataclass() compiles every method of every class that it defines, at every start: half a millisecond for a frozen
    one, 20 ms for the classes of a conversion. Here only __init__ is compiled; all classes share the rest.
    """

    def define(cls: Any) -> Any:
        cls = dataclass(eq=False, repr=False, slots=True, kw_only=kw_only)(cls)
        cls.__repr__ = _repr
        if eq:
            cls.__eq__, cls.__hash__ = _eq, _hash
        return cls

    return define if cls is None else define(cls)


def _values(of: Any) -> tuple[Any, ...]:
    return tuple(getattr(of, name) for name in of.__dataclass_fields__)


def _repr(self: Any) -> str:
    values = (f"{name}={value!r}" for name, value in zip(self.__dataclass_fields__, _values(self), strict=True))
    return f"{type(self).__qualname__}({', '.join(values)})"


def _eq(self: Any, other: Any) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))
