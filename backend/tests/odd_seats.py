# SPDX-License-Identifier: MIT
"""A compositor whose only purpose is its seats: it says any event about any surface, at any time.

It speaks as much of Wayland as a Compositor (xen_dmabuf.worker.compositor) needs to connect and to
have surfaces, and shows nothing. In the asyncio thread of the test.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from waiting import until

_GLOBALS = {"wl_compositor": 4, "wl_subcompositor": 1, "wl_shm": 1, "xdg_wm_base": 1, "wp_viewporter": 1}
POINTER, KEYBOARD, TOUCH = 1, 2, 4
_PARTS = ("wl_pointer", "wl_keyboard", "wl_touch")


def fixed(value: float) -> int:
    return int(value * 256) & 0xFFFFFFFF


class OddSeats:
    """One client. ``objects`` are its objects' kinds by number, ``said`` its requests to parts of seats."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen()
        self._client: socket.socket | None = None
        self._data = b""
        self._names: dict[int, tuple[str, int]] = {n: (i, v) for n, (i, v) in enumerate(_GLOBALS.items(), 1)}
        self._seats = 100
        self.objects: dict[int, str] = {1: "wl_display"}
        self.registry = 0
        self.said: list[tuple[str, int]] = []

    def __enter__(self) -> OddSeats:
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._accept)
        return self

    def __exit__(self, *_exception: object) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._socket.close()
        self.end()

    def end(self) -> None:
        """The connection."""
        if self._client:
            asyncio.get_running_loop().remove_reader(self._client)
            self._client.close()
            self._client = None

    def _accept(self) -> None:
        self._client = self._socket.accept()[0]
        self._client.settimeout(10)
        asyncio.get_running_loop().add_reader(self._client, self._readable)

    def _readable(self) -> None:
        assert self._client
        try:
            data = self._client.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            return self.end()
        self._data += data
        while len(self._data) >= 8:
            identifier, word = struct.unpack_from("@II", self._data)
            body, self._data = self._data[8 : word >> 16], self._data[word >> 16 :]
            self._request(identifier, word & 0xFFFF, body)

    def send(self, identifier: int, opcode: int, *words: int, data: bytes = b"", fd: int = -1) -> None:
        """An event; ``data`` is an array after the words."""
        body = struct.pack(f"@{len(words)}I", *(word & 0xFFFFFFFF for word in words)) + data
        message = struct.pack("@II", identifier, (8 + len(body)) << 16 | opcode) + body
        assert self._client
        if fd >= 0:
            socket.send_fds(self._client, [message], [fd])
        else:
            self._client.send(message)

    def _request(self, identifier: int, opcode: int, body: bytes) -> None:
        kind = self.objects.get(identifier, "")
        if kind == "wl_display":
            (new,) = struct.unpack("@I", body)
            if opcode:
                self.registry, self.objects[new] = new, "wl_registry"
                for name in self._names:
                    self._announce(name)
            else:
                self.send(new, 0, 0)
        elif kind == "wl_registry":
            (name,) = struct.unpack_from("@I", body)
            (new,) = struct.unpack_from("@I", body, len(body) - 4)
            self.objects[new] = self._names[name][0]
            if self.objects[new] == "wl_seat":
                self.objects[new] = f"wl_seat{name}"
        elif kind == "wl_compositor" and opcode == 0:
            self.objects[struct.unpack("@I", body)[0]] = "wl_surface"
        elif kind == "wl_surface" and opcode == 0:
            self._gone(identifier)
        elif kind.startswith("wl_seat") and opcode < 3:
            self.objects[struct.unpack("@I", body)[0]] = f"{_PARTS[opcode]}{kind[7:]}"
        elif kind.startswith(_PARTS):
            self.said.append((kind, opcode))

    def _gone(self, identifier: int) -> None:
        del self.objects[identifier]
        self.send(1, 1, identifier)  # wl_display.delete_id

    def _announce(self, name: int) -> None:
        interface, version = self._names[name]
        text = interface.encode() + b"\0"
        text = struct.pack("@I", len(text)) + text.ljust(-(-len(text) // 4) * 4, b"\0")
        body = struct.pack("@I", name) + text + struct.pack("@I", version)
        self.send(self.registry, 0, data=body)

    # -- what a test does

    async def seat(self, capabilities: int, version: int = 8) -> int:
        """A new one, which the client has bound with all its parts: its number."""
        self._seats += 1
        name = self._seats
        self._names[name] = ("wl_seat", version)
        self._announce(name)
        await until(lambda: f"wl_seat{name}" in self.objects.values(), "the seat is bound", 5)
        await self.capable(name, capabilities)
        return name

    async def capable(self, name: int, capabilities: int) -> None:
        self.send(self.find(f"wl_seat{name}"), 0, capabilities)
        wanted = [f"{part}{name}" for bit, part in enumerate(_PARTS) if capabilities >> bit & 1]
        await until(lambda: set(wanted) <= set(self.objects.values()), "its parts are there", 5)

    def remove(self, name: int) -> None:
        self.send(self.registry, 1, name)

    def find(self, kind: str) -> int:
        """The newest object of a kind."""
        return max(number for number, found in self.objects.items() if found == kind)

    # -- events: pointer, keyboard, touch

    def pointer(self, seat: int, event: str, *arguments: float) -> None:
        shapes = {
            "enter": (0, "iiff"), "leave": (1, "ii"), "motion": (2, "iff"), "button": (3, "iiii"), "axis": (4, "iif"),
            "frame": (5, ""), "discrete": (8, "ii"), "value120": (9, "ii"),
        }  # fmt: skip
        self._event("wl_pointer", seat, shapes[event], arguments)

    def keyboard(self, seat: int, event: str, *arguments: float, keys: tuple[int, ...] = ()) -> None:
        shapes = {"enter": (1, "ii"), "leave": (2, "ii"), "key": (3, "iiii")}
        array = struct.pack(f"@I{len(keys)}I", 4 * len(keys), *keys) if event == "enter" else b""
        self._event("wl_keyboard", seat, shapes[event], arguments, array)

    def touch(self, seat: int, event: str, *arguments: float) -> None:
        shapes = {
            "down": (0, "iiiiff"), "up": (1, "iii"), "motion": (2, "iiff"), "frame": (3, ""), "cancel": (4, ""),
        }  # fmt: skip
        self._event("wl_touch", seat, shapes[event], arguments)

    def _event(self, part: str, seat: int, shape: tuple[int, str], arguments: tuple, data: bytes = b"") -> None:
        opcode, kinds = shape
        words = [fixed(a) if kind == "f" else int(a) for kind, a in zip(kinds, arguments, strict=True)]
        self.send(self.find(f"{part}{seat}"), opcode, *words, data=data)

    def keymap(self, seat: int, size: int) -> int:
        """Send one; the number of the pipe that stays open as long as the client has its end."""
        ours, theirs = os.pipe()
        self.send(self.find(f"wl_keyboard{seat}"), 0, 1, size, fd=theirs)
        os.close(theirs)
        return ours
