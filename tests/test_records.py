"""Records behave as the dataclasses that type checkers take them for. The truth: the standard library's own."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import pytest

from fastconv import records
from fastconv.request import ConvertRequest

T = TypeVar("T")


def classes(source: Any) -> SimpleNamespace:
    """The same classes, made by one module or the other."""

    @source.dataclass(frozen=True, slots=True)
    class Point:
        """A place."""

        x: int
        y: int = 2
        tags: list[str] = source.field(default_factory=list)

        @property
        def sum(self) -> int:
            return self.x + self.y

    @source.dataclass(slots=True)
    class Counter:
        start: int
        seen: dict[str, int] = source.field(default_factory=dict)
        now: int = source.field(init=False)

        def __post_init__(self) -> None:
            self.now = self.start

    @source.dataclass(frozen=True, slots=True, kw_only=True)
    class Base:
        name: str
        notes: tuple[str, ...] = ()

    @source.dataclass(frozen=True, slots=True, kw_only=True)
    class Derived(Base):
        size: int
        notes: tuple[str, ...] = ("derived",)

    @source.dataclass(frozen=True, slots=True, eq=False)
    class Holder(Generic[T]):
        value: T

    @source.dataclass(frozen=True)
    class Open:
        value: int
        path: str = "memory"

    @source.dataclass(slots=True)
    class Refusal(Exception):
        what: str
        found: object = None

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, type)})


USES: list[Callable[[Any], Any]] = [
    lambda c: c.Point(1),
    lambda c: c.Point(1, 3, ["a"]),
    lambda c: c.Point(y=5, x=1),
    lambda c: c.Point(1, y=5).sum,
    lambda c: c.Point.__doc__,
    lambda c: c.Point.__qualname__,
    lambda c: c.Point.__match_args__,
    lambda c: c.Point(1).tags is c.Point(1).tags,
    lambda c: c.Point(),
    lambda c: c.Point(1, 2, [], 4),
    lambda c: c.Point(1, x=1),
    lambda c: c.Point(1, z=1),
    lambda c: c.Point(1) == c.Point(1, 2, []),
    lambda c: c.Point(1) == c.Point(2),
    lambda c: c.Point(1) == (1, 2, []),
    lambda c: hash(c.Base(name="a")) == hash(c.Base(name="a")) != hash(c.Base(name="b")),
    lambda c: hash(c.Point(1)),  # of a list
    lambda c: hash(c.Counter(1)),
    lambda c: hash(c.Holder([])) != hash(c.Holder([])),
    lambda c: setattr(c.Point(1), "x", 2),
    lambda c: delattr(c.Point(1), "x"),
    lambda c: hasattr(c.Point(1), "__dict__"),
    lambda c: c.Open(1).__dict__,
    lambda c: c.Counter(4),
    lambda c: c.Counter(4, now=5),
    lambda c: setattr(c.Counter(4), "other", 2),
    lambda c: setattr(c.Counter(4), "now", 2),
    lambda c: c.Base(name="a"),
    lambda c: c.Base("a"),
    lambda c: c.Derived(size=1, name="a"),
    lambda c: c.Derived(size=1, name="a").__slots__,
    lambda c: c.Derived(name="a"),
    lambda c: c.Derived.__match_args__,
    lambda c: c.Derived(size=1, name="a") == c.Base(name="a"),
    lambda c: c.Holder(1) == c.Holder(1),
    lambda c: c.Refusal("no", found=3),
    lambda c: c.Refusal("no") == c.Refusal("no"),
    lambda c: c.replace(c.Point(1, 3), x=2),
    lambda c: c.replace(c.Point(1), z=2),
    lambda c: c.replace(c.Counter(1), start=2),
    lambda c: c.replace(c.Derived(size=1, name="a"), name="b"),
    lambda c: [(f.name, f.type, f.init) for f in c.fields(c.Derived(size=1, name="a"))],
    lambda c: [(f.name, f.default) for f in c.fields(c.Open)][1:],
    lambda c: dataclasses.asdict(c.Point(1)),
    lambda c: dataclasses.replace(c.Derived(size=1, name="a"), size=2),
    lambda c: dataclasses.is_dataclass(c.Open),
    lambda c: copy.copy(c.Point(1, 3, ["a"])),
    lambda c: copy.deepcopy(c.Point(1, 3, ["a"])),
]


def outcome(use: Callable[[Any], Any], source: Any) -> str:
    """Text: values of two classes are never equal. Of the exception the class alone: the words are its own."""
    made = classes(source)
    made.replace, made.fields = source.replace, source.fields
    try:
        return repr(use(made))
    except (TypeError, ValueError, AttributeError) as error:
        return type(error).__name__


@pytest.mark.parametrize("use", USES, ids=range(len(USES)))
def test_records_do_what_dataclasses_do(use: Callable[[Any], Any]) -> None:
    assert outcome(use, records) == outcome(use, dataclasses)


def test_a_record_can_be_pickled() -> None:
    request = ConvertRequest("model", to="hf", threads=2)
    assert pickle.loads(pickle.dumps(request)) == request


def test_a_record_is_matched_by_place() -> None:
    point = classes(records).Point
    match point(1, 3):
        case point(1, y):
            assert y == 3
        case _:
            pytest.fail("no match")


def test_no_name_can_be_added_to_a_frozen_record() -> None:
    """The original does not get to its own error."""
    with pytest.raises(dataclasses.FrozenInstanceError, match="'other'"):
        classes(records).Point(1).other = 2
