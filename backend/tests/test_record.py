# SPDX-License-Identifier: MIT
"""Records are what dataclasses(frozen=True) would be."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from xen_dmabuf.record import record


@record
class Point:
    """Of a plane."""

    x: int
    y: int = 7
    names: tuple[str, ...] = dataclasses.field(default_factory=lambda: ("p",))


@record
class Other:
    x: int
    y: int = 7
    names: tuple[str, ...] = ("p",)


@record
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


def test_values_come_by_place_by_name_and_by_default():
    assert dataclasses.astuple(Point(1)) == (1, 7, ("p",))
    assert dataclasses.astuple(Point(1, names=(), y=2)) == dataclasses.astuple(Point(1, 2, ())) == (1, 2, ())
    assert dataclasses.asdict(dataclasses.replace(Point(1), y=3)) == {"x": 1, "y": 3, "names": ("p",)}
    assert Point.__doc__ == "Of a plane." and [field.name for field in dataclasses.fields(Point)] == ["x", "y", "names"]


@pytest.mark.parametrize(
    ("values", "named", "said"),
    [
        ((), {}, "Point: x is missing"),
        ((), {"y": 1}, "Point: x is missing"),
        ((1,), {"x": 1}, "Point: x is too much"),
        ((1,), {"z": 1}, "Point: z is too much"),
        ((1, 2, (), 4), {}, "Point: a value is too much"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, named, said):
    with pytest.raises(TypeError, match=said):
        Point(*values, **named)


def test_they_are_compared_and_hashed_by_value_and_class():
    assert Point(1, 2) == Point(y=2, x=1) and Point(1, 2) != Point(1, 3) and Point(1) != Other(1) and Point(1) != 1
    assert len({Point(1, 2), Point(y=2, x=1), Point(2)}) == 2
    for copied in (copy.deepcopy(Point(1, 2)), pickle.loads(pickle.dumps(Point(1, 2)))):
        assert copied == Point(1, 2)
    assert repr(Point(1)) == "Point(x=1, y=7, names=('p',))"


def test_nothing_can_be_changed():
    point = Point(1)
    for change in (lambda: setattr(point, "x", 2), lambda: setattr(point, "z", 2), lambda: delattr(point, "x")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert point == Point(1)


def test_what_a_class_checks_itself_is_checked():
    assert Even(2).number == 2
    with pytest.raises(ValueError, match="3 is odd"):
        Even(3)
