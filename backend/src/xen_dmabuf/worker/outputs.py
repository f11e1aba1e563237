# SPDX-License-Identifier: MIT
"""The compositor's outputs, by name. In the asyncio thread; no output need ever be named."""

from __future__ import annotations

from collections.abc import Callable

from .layout import NO_LIMIT, Size, bounded
from .protocols import Proxy, WlOutput

_MOST = 64  # a compositor that makes more than that is not counted with
_CURRENT = 1  # of wl_output.mode
_LONGEST = 256


class _Output:
    def __init__(self, proxy: Proxy, version: int) -> None:
        self.proxy = proxy
        self.version = version
        self.name = ""
        self.mode: Size = NO_LIMIT
        self.scale = 1
        self.turned = False

    def size(self) -> Size:
        """In the compositor's (logical) pixels."""
        width, height = (side // self.scale for side in self.mode)
        return (height, width) if self.turned else (width, height)


class Outputs:
    """``changed`` is called when one came, went or has another size."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._all: dict[int, _Output] = {}

    def bind(self, registry: Proxy, number: int, version: int) -> None:
        """A wl_output that the compositor offers; ``number`` is the global's."""
        if len(self._all) >= _MOST:
            return
        version = min(version, WlOutput.version)
        proxy = registry.bind(number, WlOutput, version)
        output = self._all[number] = _Output(proxy, version)

        def geometry(_proxy: Proxy, _x: int, _y: int, _w: int, _h: int, *rest: object) -> None:
            output.turned = bool(int(rest[-1]) & 1)  # type: ignore[call-overload]  # wl_output.transform

        def mode(_proxy: Proxy, flags: int, width: int, height: int, _refresh: int) -> None:
            if flags & _CURRENT:
                output.mode = bounded(width, height)

        def scale(_proxy: Proxy, factor: int) -> None:
            output.scale = max(1, factor)

        def name(_proxy: Proxy, text: str) -> None:
            output.name = text[:_LONGEST]

        for event, callback in (("geometry", geometry), ("mode", mode), ("scale", scale), ("name", name)):
            proxy.dispatcher[event] = callback
        proxy.dispatcher["done"] = lambda _proxy: self._changed()

    def unbind(self, number: int) -> None:
        """A global went; nothing if it was no output."""
        output = self._all.pop(number, None)
        if output is None:
            return
        if output.version >= 3 and not output.proxy.destroyed:
            output.proxy.release()
        self._changed()

    def named(self, name: str) -> tuple[str, Proxy]:
        """Its name and proxy; "" and None if it isn't there: the compositor chooses."""
        for output in self._all.values():
            if name and output.name == name:
                return name, output.proxy
        return "", None

    def name_of(self, proxy: Proxy | None) -> str:
        """The output's name, "" for one that isn't known."""
        return next((output.name for output in self._all.values() if output.proxy is proxy), "")

    def size(self, name: str) -> Size:
        """Of the output of this name, else of the largest; NO_LIMIT if none has said its size."""
        sizes = [output.size() for output in self._all.values() if name and output.name == name]
        sizes = sizes or [output.size() for output in self._all.values()]
        return max((size for size in sizes if all(size)), key=lambda size: size[0] * size[1], default=NO_LIMIT)

    def names(self) -> list[str]:
        """Of all that there are; "" of one whose compositor gives no names."""
        return [output.name for output in self._all.values()]
