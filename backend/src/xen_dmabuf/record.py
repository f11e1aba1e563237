# SPDX-License-Identifier: MIT
"""Frozen dataclasses that share their methods, so that none is compiled when a process starts.

For each class dataclasses writes and compiles six functions; of a worker's fifty classes that was a fifth of all that
it executed before it served. The functions here look the fields up when they are called: an instance takes twice as
long to make, so what is made for each flip stays a dataclass. Any thread.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing

_Kind = typing.TypeVar("_Kind")


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def record(kind: type[_Kind]) -> type[_Kind]:
    """A class with annotated fields to a dataclass, frozen and compared by value; no ClassVar among them."""
    kind.__doc__ = kind.__doc__ or kind.__name__  # else dataclass() composes one
    dataclasses.dataclass(init=False, repr=False, eq=False, match_args=False)(kind)
    for method in (__init__, __repr__, __eq__, __hash__, __setattr__, __delattr__):
        setattr(kind, method.__name__, method)
    return kind


def _name(self: object) -> str:
    return type(self).__qualname__


def __init__(self: typing.Any, *values: object, **named: object) -> None:
    fields = self.__dataclass_fields__
    state = dict(zip(fields, values, strict=False))
    for name, field in itertools.islice(fields.items(), len(values), None):
        if name in named:
            state[name] = named.pop(name)
        elif field.default is not dataclasses.MISSING:
            state[name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            state[name] = field.default_factory()
        else:
            raise TypeError(f"{_name(self)}: {name} is missing")
    if named or len(values) > len(fields):
        raise TypeError(f"{_name(self)}: {', '.join(named) or 'a value'} is too much")
    self.__dict__.update(state)
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def __repr__(self: object) -> str:
    return f"{_name(self)}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def __eq__(self: object, other: object) -> bool:
    return vars(self) == vars(other) if type(self) is type(other) else NotImplemented


def __hash__(self: object) -> int:
    return hash(tuple(vars(self).values()))  # they are in the order of the fields


def __setattr__(self: object, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"{_name(self)}: {name} can't be changed")


def __delattr__(self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"{_name(self)}: {name} can't be changed")
