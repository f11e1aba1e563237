# SPDX-License-Identifier: MIT
"""Plain data (of JSON or TOML) to dataclasses and back, checked by their types.

For the configuration, for what supervisor and worker say to each other, and for a worker's stored
state. A field's type is one of int, str, bool, ``tuple[T, ...]``, ``dict[str, T]`` and a dataclass;
number(), text() and choice() make fields with narrower bounds. Unknown keys, absent keys without a
default and wrong types are a CodecError that names the place. Any thread.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import typing

_MOST = (1 << 64) - 1
_LONGEST = 1 << 12


class CodecError(ValueError):
    """The message names the place in the data, what is expected there and what was found."""


def number(default: object = dataclasses.MISSING, *, low: int = 0, high: int = _MOST) -> typing.Any:
    """A field of type int within bounds; without this they are 0 to 2^64 - 1."""
    return _field(default, {"low": low, "high": high})


def text(default: object = dataclasses.MISSING, *, longest: int) -> typing.Any:
    """A field of type str of at most ``longest`` characters; without this 4096."""
    return _field(default, {"longest": longest})


def choice(default: object, choices: tuple[str, ...]) -> typing.Any:
    """A field of type str, or a tuple of them that isn't empty, out of ``choices``."""
    return _field(default, {"choices": choices})


def required() -> typing.Any:
    """A field of any type that has to be there, also after such that number() and text() made."""
    return _field(dataclasses.MISSING, {})


def _field(default: object, bounds: dict[str, object]) -> typing.Any:
    return dataclasses.field(default=default, metadata=bounds)


@functools.cache
def _shape(kind: type) -> dict[str, tuple[typing.Any, dataclasses.Field[typing.Any]]]:
    """The names of a dataclass's fields with their types."""
    hints = typing.get_type_hints(kind)
    return {field.name: (hints[field.name], field) for field in dataclasses.fields(kind)}


def decode(kind: type, data: object, where: str = "") -> typing.Any:
    """An instance of the dataclass ``kind``; CodecError. ``where`` names ``data`` in messages."""
    if not isinstance(data, dict):
        raise CodecError(f"{where or 'all'}: a table is expected, not {_short(data)}")
    shape = _shape(kind)
    for key in data:
        if key not in shape:
            raise CodecError(f"{_place(where, str(key)[:80])}: unknown key; known here are {', '.join(shape)}")
    values = {}
    for name, (hint, field) in shape.items():
        if name in data:
            values[name] = _value(hint, data[name], _place(where, name), field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise CodecError(f"{_place(where, name)} is missing")
    return kind(**values)


def _place(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _short(value: object) -> str:
    try:
        text = repr(value)
    except RecursionError:
        return "what is nested too deeply"
    return text if len(text) <= 80 else text[:77] + "..."


def _value(hint: typing.Any, value: object, where: str, bounds: typing.Any) -> object:
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _items(typing.get_args(hint)[0], value, where, bounds)
    if origin is dict:
        if not isinstance(value, dict):
            raise CodecError(f"{where}: a table is expected, not {_short(value)}")
        inner = typing.get_args(hint)[1]
        return {
            _text(name, where, {}): _value(inner, item, _place(where, str(name)[:80]), {})
            for name, item in value.items()
        }
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type, hint), value, where)
    return {int: _number, str: _text, bool: _bool}[hint](value, where, bounds)


def _items(hint: typing.Any, value: object, where: str, bounds: typing.Any) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise CodecError(f"{where}: a list is expected, not {_short(value)}")
    if "choices" in bounds and not value:
        raise CodecError(f"{where}: empty; choose from {', '.join(bounds['choices'])}")
    return tuple(_value(hint, item, f"{where}[{index}]", bounds) for index, item in enumerate(value))


def _number(value: object, where: str, bounds: typing.Any) -> int:
    low, high = bounds.get("low", 0), bounds.get("high", _MOST)
    if type(value) is not int:  # a bool is no number here
        raise CodecError(f"{where}: a number is expected, not {_short(value)}")
    if not low <= value <= high:
        raise CodecError(f"{where}: {_short(value)} is not within {low} to {high}")
    return value


def _text(value: object, where: str, bounds: typing.Any) -> str:
    if not isinstance(value, str):
        raise CodecError(f"{where}: a text is expected, not {_short(value)}")
    if "choices" in bounds and value not in bounds["choices"]:
        raise CodecError(f"{where}: {_short(value)}: choose from {', '.join(bounds['choices'])}")
    longest = bounds.get("longest", _LONGEST)
    if len(value) > longest:
        raise CodecError(f"{where}: {len(value)} characters, at most {longest} are expected")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CodecError(f"{where}: half a surrogate pair is no text") from None
    return value


def _bool(value: object, where: str, _bounds: typing.Any) -> bool:
    if not isinstance(value, bool):
        raise CodecError(f"{where}: true or false is expected, not {_short(value)}")
    return value


def encode(value: typing.Any) -> dict[str, typing.Any]:
    """The plain data of a dataclass; decode() is the inverse."""
    return dataclasses.asdict(value)


def from_json(line: bytes | str) -> object:
    """Plain data of JSON text; CodecError if it is none."""
    try:
        return json.loads(line)
    except RecursionError:
        raise CodecError("nested too deeply") from None
    except ValueError as error:
        raise CodecError(f"not valid JSON: {error}") from error
