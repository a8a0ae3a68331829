"""Classes of named fields: what the project uses of `dataclasses`, at a fraction of its price.

dataclasses writes the methods of each class as source text and compiles them, half a millisecond a class, and a run has
some forty. Here they are the same few functions for all. Type checkers are shown the original (records.pyi), and the
original's own functions take these classes for what they look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

_MISSING: Any = object()


class Field:
    """What a class says of one of its fields. type: as annotated."""

    __slots__ = ("default", "default_factory", "init", "kw_only", "name", "type")

    def __init__(self, default: Any, default_factory: Any, init: bool) -> None:
        self.default, self.default_factory, self.init = default, default_factory, init


def field(*, default_factory: Any = _MISSING, init: bool = True) -> Any:
    """As dataclasses.field."""
    return Field(_MISSING, default_factory, init)


def fields(record: Any) -> tuple[Field, ...]:
    """As dataclasses.fields."""
    found: tuple[Field, ...] = record.__fields__
    return found


def replace(record: Any, **changes: Any) -> Any:
    """As dataclasses.replace."""
    kept = {f.name: getattr(record, f.name) for f in record.__fields__ if f.init and f.name not in changes}
    return type(record)(**kept, **changes)


def dataclass(
    *, eq: bool = True, frozen: bool = False, kw_only: bool = False, slots: bool = False
) -> Callable[[type], type]:
    """As dataclasses.dataclass."""

    def decorate(cls: type) -> type:
        namespace = dict(cls.__dict__)
        own = [_own_field(name, annotation, namespace) for name, annotation in cls.__annotations__.items()]
        for f in own:
            f.kw_only = kw_only
        inherited = {f.name: f for base in reversed(cls.__mro__[1:]) for f in getattr(base, "__fields__", ())}
        found = tuple((inherited | {f.name: f for f in own}).values())
        namespace |= {"__fields__": found, "__dataclass_fields__": _FOR_DATACLASSES}
        namespace |= {"__init__": _initializer(found, "__post_init__" in namespace), "__repr__": _repr}
        namespace["__match_args__"] = tuple(f.name for f in found if f.init and not f.kw_only)
        if eq:
            namespace |= {"__eq__": _equals, "__hash__": _hash if frozen else None}
        if frozen:
            namespace |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete}
        if slots:
            namespace["__slots__"] = tuple(f.name for f in own if f.name not in inherited)
            namespace |= {"__getstate__": _values, "__setstate__": _set_state}
        for left in ("__dict__", "__weakref__"):
            namespace.pop(left, None)
        made = type(cls)(cls.__name__, cls.__bases__, namespace)
        made.__qualname__ = cls.__qualname__
        return made

    return decorate


def _own_field(name: str, annotation: Any, namespace: dict[str, Any]) -> Field:
    """Takes the default out of the class, where a slot of that name has no room for it."""
    default = namespace.pop(name, _MISSING)
    found = default if isinstance(default, Field) else Field(default, _MISSING, init=True)
    found.name, found.type = name, annotation
    return found


def _initializer(found: tuple[Field, ...], has_post_init: bool) -> Callable[..., None]:
    names = tuple(f.name for f in found if f.init)
    positional = tuple(f.name for f in found if f.init and not f.kw_only)
    known = frozenset(names)
    defaults = {f.name: f.default for f in found if f.default is not _MISSING}
    factories = {f.name: f.default_factory for f in found if f.default_factory is not _MISSING}
    put = object.__setattr__

    def completed(cls: type, values: tuple[Any, ...], named: dict[str, Any]) -> Iterable[Any]:
        placed = dict(zip(positional, values, strict=False))
        given = defaults | placed | named
        for name, make in factories.items():
            if name not in given:
                given[name] = make()
        if given.keys() != known or len(placed) < len(values) or not placed.keys().isdisjoint(named):
            raise TypeError(f"{cls.__name__}() takes {', '.join(names)}, each once")
        return map(given.__getitem__, names)

    def __init__(self: Any, *values: Any, **named: Any) -> None:
        is_complete = len(values) == len(names) == len(positional) and not named
        for name, value in zip(names, values if is_complete else completed(type(self), values, named), strict=True):
            put(self, name, value)
        if has_post_init:
            self.__post_init__()

    return __init__


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in self.__fields__)})"


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, f.name) for f in self.__fields__)


def _equals(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _refuse_to_set(self: object, name: str, value: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _set_state(self: Any, state: tuple[Any, ...]) -> None:
    for f, value in zip(self.__fields__, state, strict=True):
        object.__setattr__(self, f.name, value)


class _ForDataclasses:
    """What dataclasses.fields(), asdict() and replace() read, made when they ask."""

    def __get__(self, record: object, cls: Any) -> dict[str, Any]:
        import dataclasses

        def original(f: Field) -> Any:
            stated = {"default": f.default, "default_factory": f.default_factory}
            given = {key: value for key, value in stated.items() if value is not _MISSING}
            return dataclasses.field(init=f.init, kw_only=f.kw_only, **given)

        made: Any = dataclasses.make_dataclass(cls.__name__, [(f.name, f.type, original(f)) for f in cls.__fields__])
        found: dict[str, Any] = made.__dataclass_fields__
        return found


_FOR_DATACLASSES = _ForDataclasses()
