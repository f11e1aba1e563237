# SPDX-License-Identifier: MIT
"""A tiny Wayland server, hand-packed, that is as wrong as it is asked to be. It draws nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct

from xen_dmabuf.displif import fourcc

from .base import garble, number

# those of module os may be made to fail while a server runs
_memfd_create, _ftruncate = os.memfd_create, os.ftruncate
_SERVERS = 0xFF000000
_CREATES = {
    ("wl_display", 0): "wl_callback",
    ("wl_display", 1): "wl_registry",
    ("wl_compositor", 0): "wl_surface",
    ("wl_compositor", 1): "wl_region",
    ("wl_subcompositor", 1): "wl_subsurface",
    ("wl_shm", 0): "wl_shm_pool",
    ("wl_shm_pool", 0): "wl_buffer",
    ("wl_surface", 3): "wl_callback",
    ("wp_viewporter", 1): "wp_viewport",
    ("xdg_wm_base", 2): "xdg_surface",
    ("xdg_surface", 1): "xdg_toplevel",
    ("zwp_linux_dmabuf_v1", 1): "params",
    ("zwp_linux_dmabuf_v1", 2): "feedback",
}
"""The request, and what its first argument makes."""
_DESTROYS = {
    ("wl_surface", 0),
    ("wl_region", 0),
    ("wl_subsurface", 0),
    ("wl_shm_pool", 1),
    ("wl_buffer", 0),
    ("wp_viewport", 0),
    ("xdg_surface", 0),
    ("xdg_toplevel", 0),
    ("params", 0),
    ("feedback", 0),
}
_GLOBALS = {
    "wl_compositor": 4,
    "wl_subcompositor": 1,
    "wl_shm": 1,
    "xdg_wm_base": 5,
    "wp_viewporter": 1,
    "zwp_linux_dmabuf_v1": 4,
    "wl_output": 4,
    "wp_presentation": 1,
}
_FORMATS = (fourcc.XRGB8888, fourcc.ARGB8888, fourcc.RGB565)
_LINEAR, _INVALID = 0, 0x00FF_FFFF_FFFF_FFFF


def u32(*values: int) -> bytes:
    return struct.pack(f"@{len(values)}I", *(value & 0xFFFFFFFF for value in values))


def array(data: bytes) -> bytes:
    return u32(len(data)) + data.ljust(-(-len(data) // 4) * 4, b"\0")


def string(data: bytes) -> bytes:
    return array(data + b"\0")


class Server:
    """``honest``: it does what Weston would. ``events``: those that were sent. One client at a time.

    An honest one may be deaf for a while, too: it reads nothing.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.honest = False
        self.garbage = chance.choice((0.0, 0.0, 0.01, 0.1))
        self.events = 0
        self.path = f"\0xen-dmabuf-fuzz-{os.getpid()}"
        self._loop = asyncio.get_running_loop()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening, self._accept)
        self._client: socket.socket | None = None
        self._deaf = False
        self._forget()

    def _forget(self) -> None:
        self._kinds = {1: "wl_display"}
        self._names: dict[int, str] = {}
        self._data = b""
        self._rest = b""
        self._backlog = bytearray()
        self._next = _SERVERS
        self._configured: set[int] = set()
        self._ended: list[int] = [7, _SERVERS + 3]

    def behave(self) -> None:
        """From now on it is honest; not amid a connection."""
        self.honest = True

    def objects(self) -> dict[int, str]:
        """What a client made, and has not destroyed, but what lasts as long as its connection."""
        lasting = {*_GLOBALS, "wl_display", "wl_registry", "feedback", ""}
        return {identifier: kind for identifier, kind in self._kinds.items() if kind not in lasting}

    def close(self) -> None:
        self.hang_up()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def hang_up(self) -> None:
        if self._client:
            self._loop.remove_reader(self._client)
            self._loop.remove_writer(self._client)
            self._client.close()
            self._client = None
        self._deaf = False

    def break_off(self) -> None:
        """End the connection, perhaps amid an event."""
        if self.chance.random() < 0.5:
            self.write(u32(1, 12 << 16 | 1)[: self.chance.randrange(1, 8)])
        self.hang_up()

    def _listen(self, deaf: bool) -> None:
        if self._client and deaf != self._deaf:
            self._deaf = deaf
            if deaf:
                self._loop.remove_reader(self._client)
            else:
                self._loop.add_reader(self._client, self._readable)

    def _accept(self) -> None:
        self.hang_up()
        self._forget()
        self._client, _address = self._listening.accept()
        self._client.setblocking(False)
        self._loop.add_reader(self._client, self._readable)

    def _of(self, kind: str) -> list[int]:
        return [identifier for identifier, each in self._kinds.items() if each == kind]

    # -- what the client says

    def _readable(self) -> None:
        assert self._client
        fds: list[int] = []
        try:
            data, fds, _flags, _address = socket.recv_fds(self._client, 65536, 64)
        except OSError:
            data = b""
        for fd in fds:
            os.close(fd)
        if not data:
            self.hang_up()
            return
        self._data += data
        while len(self._data) >= 8:
            identifier, word = struct.unpack_from("@II", self._data)
            size = word >> 16
            if size < 8 or len(self._data) < size:
                return
            body, self._data = self._data[8:size], self._data[size:]
            self._request(identifier, word & 0xFFFF, body)

    def _request(self, identifier: int, opcode: int, body: bytes) -> None:
        kind = self._kinds.get(identifier, "")
        if created := _CREATES.get((kind, opcode)):
            (new,) = struct.unpack_from("@I", body)
            self._kinds[new] = created
            self._begun(kind, created, new)
        elif (kind, opcode) == ("wp_presentation", 1):
            self._kinds[struct.unpack("@II", body)[1]] = "presentation"
        elif (kind, opcode) == ("wl_registry", 0):
            name, new = struct.unpack_from("@I", body)[0], struct.unpack_from("@I", body, len(body) - 4)[0]
            self._kinds[new] = self._names.get(name, "")
            self._bound(self._kinds[new], new, struct.unpack_from("@I", body, len(body) - 8)[0])
        elif (kind, opcode) in _DESTROYS:
            self._end(identifier)
        elif (kind, opcode) == ("params", 2) and (self.honest or self.chance.random() < 0.6):
            self._answer(identifier)
        elif (kind, opcode) == ("wl_surface", 6) and (self.honest or self.chance.random() < 0.7):
            self._committed()

    def _end(self, identifier: int) -> None:
        self._kinds.pop(identifier, None)
        self._ended = [*self._ended[-20:], identifier]
        if identifier < _SERVERS and (self.honest or self.chance.random() < 0.98):
            self.send(1, 1, u32(identifier))

    def _begun(self, owner: str, kind: str, new: int) -> None:
        if kind == "wl_registry":
            self._announce(new)
        elif owner == "wl_display" and (self.honest or self.chance.random() < 0.98):
            self.send(new, 0, u32(0))
            self._end(new)
        elif kind == "feedback":
            self._feedback(new)

    def _announce(self, registry: int) -> None:
        chance = self.chance
        names = list(_GLOBALS.items())
        if not self.honest:
            chance.shuffle(names)
            if chance.random() < 0.05:
                names.pop()
            for _ in range(chance.choice((0, 0, 1, 5))):
                names.insert(
                    chance.randrange(len(names) + 1),
                    (chance.choice([*_GLOBALS, "wl_seat", "", "x" * 900]), number(chance, 32)),
                )
        for name, (interface, version) in enumerate(names, 1):
            self._names[name] = interface
            if not self.honest and chance.random() < 0.1:
                version = chance.choice((1, 2, 3, 9, number(chance, 32)))
            text = interface.encode()
            if not self.honest and chance.random() < 0.003:
                text = chance.choice((b"\xff\xfe", b"wl_shm\0wl_shm", b""))
            self.send(registry, 0, u32(name) + string(text) + u32(version))

    def _bound(self, kind: str, new: int, version: int) -> None:
        if kind == "wl_shm":
            for code in _FORMATS:
                self.send(new, 0, u32(fourcc.to_shm(code)))
        elif kind == "wp_presentation":
            self.send(new, 0, u32(1 if self.honest else self.chance.choice((1, 1, 1, 0, number(self.chance, 32)))))
        elif kind == "wl_output" and version >= 4:
            self._output(new)
        elif kind == "zwp_linux_dmabuf_v1" and version < 4:
            for code in _FORMATS:
                if version == 3 and self.chance.random() < 0.5:
                    self.send(new, 1, u32(code, 0, self.chance.choice((0, 1))))
                else:
                    self.send(new, 0, u32(code))

    def _output(self, output: int) -> None:
        """What it is, or what none can be."""
        chance = self.chance
        sizes = ((640, 480), (0, 0), (1, 70000), (number(chance, 32), number(chance, 32)))
        width, height = (640, 480) if self.honest else chance.choice(sizes)
        name = "DP-1" if self.honest else chance.choice(("DP-1", "", "x" * 900))
        self.send(output, 0, u32(0, 0, 1, 1, 0) + string(b"") + string(b"") + u32(number(chance, 32) & 7))
        self.send(output, 1, u32(1, width, height, 60000))
        self.send(output, 3, u32(1 if self.honest else number(chance, 32)))
        self.send(output, 4, string(name.encode()))
        self.send(output, 2)

    def _feedback(self, feedback: int) -> None:
        """The table of formats, its device and tranches; in another order, of another size, or without file."""
        chance = self.chance
        table = b"".join(struct.pack("<I4xQ", code, modifier) for code in _FORMATS for modifier in (_LINEAR, _INVALID))
        size, indices, device = len(table), struct.pack("<6H", *range(6)), struct.pack("<Q", 0xE280)
        if not self.honest and chance.random() < 0.4:
            size = chance.choice((0, 1, 15, 17, size - 16, size + 16, 4096, 1 << 20, 0xFFFFFFFF, number(chance, 32)))
            indices = chance.choice((indices[:-1], b"", indices[:2], chance.randbytes(chance.randrange(64))))
            device = chance.choice((b"", b"\1", bytes(8), device[:4], b"\xff" * 8, b"\xff" * 16, b"\xff" * 5))
        kind = (
            "memfd"
            if self.honest
            else chance.choice(("memfd",) * 12 + ("null", "pipe", "short", "none", "more", "shrunk"))
        )
        with contextlib.ExitStack() as stack:
            fds = tuple(self._files(kind, table, stack))
            flags = 1 if self.honest else number(chance, 32)
            tranche = [(4, array(device), ()), (6, u32(flags), ()), (5, array(indices), ()), (3, b"", ())]
            events = [(1, u32(size), fds), (2, array(device), ()), *tranche, (0, b"", ())]
            if not self.honest and chance.random() < 0.1:
                chance.shuffle(events)
            for opcode, body, files in events:
                self.send(feedback, opcode, body, files)

    def _files(self, kind: str, table: bytes, stack: contextlib.ExitStack) -> list[int]:
        fds = []
        if kind == "null":
            fds.append(os.open(os.devnull, os.O_RDWR))
        elif kind == "pipe":
            fds += os.pipe()
        elif kind != "none":
            fds.append(_memfd_create("table"))
            os.write(fds[0], table if kind != "short" else table[:5])
            if kind == "more":
                fds += [os.dup(fds[0]) for _ in range(self.chance.randrange(1, 8))]
            elif kind == "shrunk":
                _ftruncate(fds[0], 0)
        for fd in fds:
            stack.callback(os.close, fd)
        return fds

    def _answer(self, params: int) -> None:
        """created, or failed; once, or as often as nobody expects."""
        chance = self.chance
        for _ in range(1 if self.honest else chance.choice((1, 1, 1, 1, 1, 1, 1, 1, 1, 2))):
            if self.honest or chance.random() < 0.7:
                new = self._next if self.honest or chance.random() < 0.99 else number(chance, 32)
                self.send(params, 0, u32(new))
                self._kinds[new] = "wl_buffer"
                self._next += 1
            else:
                self.send(params, 1)

    def _committed(self) -> None:
        """Configure what is new, and draw."""
        for surface in set(self._of("xdg_surface")) - self._configured:
            self._configured.add(surface)
            for toplevel in self._of("xdg_toplevel"):
                self.send(toplevel, 0, u32(0, 0) + array(b""))
            self.send(surface, 0, u32(1))
        if self.honest:
            self.draw(100)

    def draw(self, count: int) -> None:
        """The frames that were asked for last; then the buffers go back."""
        for callback in self._of("wl_callback")[:count]:
            self.send(callback, 0, u32(0))
            self._end(callback)
        for buffer in self._of("wl_buffer")[: count + 1]:
            self.send(buffer, 0)
        for feedback in self._of("presentation")[:count]:
            self._present(feedback)

    def _present(self, feedback: int) -> None:
        chance = self.chance
        if chance.random() < 0.2:
            self.send(feedback, 2)
        else:
            self.send(feedback, 1, u32(*(0 if self.honest else number(chance, 32) for _ in range(7))))
        self._end(feedback)

    # -- what it says

    def send(self, identifier: int, opcode: int, body: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """One event, or what is left of it."""
        chance = self.chance
        data = u32(identifier, (8 + len(body)) << 16 | opcode) + body
        self.events += 1
        if not self.honest and chance.random() < self.garbage * 0.1:
            data = garble(chance, data)
        self.write(data, fds)

    def write(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        if not self._client:
            return
        data, self._rest = self._rest + data, b""
        if data and not self.honest and self.chance.random() < 0.02:  # in two pieces
            cut = self.chance.randrange(len(data))
            data, self._rest = data[:cut], data[cut:]
            if not data:
                return
        if self.honest and self._backlog:
            self._backlog += data
            return
        sent = 0
        try:
            sent = socket.send_fds(self._client, [data], list(fds))
        except BlockingIOError:  # it doesn't read
            pass
        except OSError:  # it has gone
            return
        if self.honest and sent < len(data):  # a compositor that is none loses events
            self._backlog += data[sent:]
            self._loop.add_writer(self._client, self._writable)

    def _writable(self) -> None:
        assert self._client
        try:
            sent = self._client.send(self._backlog)
        except BlockingIOError:
            return
        except OSError:  # it has gone
            sent = len(self._backlog)
        del self._backlog[:sent]
        if not self._backlog:
            self._loop.remove_writer(self._client)

    def act(self) -> None:
        """One event that could come now, or never could."""
        chance = self.chance
        if chance.random() < 0.02:
            self._listen(deaf=True)
            self._loop.call_later(chance.choice((0.01, 1, 5)), self._listen, False)
        if self.honest:
            return
        kinds = list(self._kinds.items())
        identifier, kind = chance.choice(kinds)
        if chance.random() < self.garbage:
            self._lie(identifier)
            return
        if chance.random() < 0.3:
            self.draw(chance.choice((1, 1, 2, 9)))
        elif kind == "params":
            self._answer(identifier)
        elif kind == "wl_buffer":
            self.send(identifier, 0)
        elif kind == "xdg_toplevel":
            self._toplevel(identifier)
        elif kind in ("xdg_surface", "xdg_wm_base", "wl_shm"):
            self.send(identifier, 0, u32(number(chance, 32)))
        elif kind == "feedback":
            self._feedback(identifier)
        elif kind == "wl_output":
            self._output(identifier)
        elif kind == "presentation":
            self._present(identifier)
        elif kind == "wl_surface" and self._of("wl_output"):
            self.send(identifier, 0, u32(chance.choice(self._of("wl_output"))))
        elif kind == "wl_callback":
            self.send(identifier, 0, u32(0))
            if chance.random() < 0.9:
                self._end(identifier)
        elif kind == "wl_registry":
            name = len(self._names) + 1
            interface = chance.choice([*_GLOBALS])
            self._names[name] = interface
            if chance.random() < 0.5:
                self.send(identifier, 0, u32(name) + string(interface.encode()) + u32(chance.choice((0, 1, 4, 99))))
            else:
                self.send(identifier, 1, u32(chance.randrange(9)))
        else:
            self.send(
                chance.choice(self._ended),
                chance.randrange(3),
                u32(*(number(chance, 32) for _ in range(chance.randrange(4)))),
            )

    def _toplevel(self, identifier: int) -> None:
        chance = self.chance
        kind = chance.random()
        if kind < 0.8:
            size = chance.choice(((0, 0), (640, 480), (1, 1), (0, 5), (number(chance, 32), number(chance, 32))))
            states = chance.choice((b"", u32(1), u32(2), u32(2, 4), u32(5, 6, 7, 8), u32(number(chance, 32))))
            if chance.random() < 0.1:
                states = chance.randbytes(chance.randrange(9))
            self.send(identifier, 0, u32(*size) + array(states))
        elif kind < 0.9:
            self.send(identifier, 1)
        else:
            self.send(identifier, chance.choice((2, 3)), u32(100, 100) if chance.random() < 0.5 else array(u32(1)))

    def _lie(self, identifier: int) -> None:
        chance = self.chance
        kind = chance.random()
        if kind < 0.4:
            body = chance.choice(
                (
                    b"",
                    u32(0),
                    u32(number(chance, 32)),
                    array(chance.randbytes(chance.randrange(32))),
                    chance.randbytes(4 * chance.randrange(9)),
                )
            )
            self.send(
                chance.choice((identifier, *self._ended, number(chance, 32))),
                chance.choice((0, 1, 2, 5, number(chance, 16))),
                body,
            )
        elif kind < 0.5:
            self.send(1, 1, u32(chance.choice((identifier, 1, 0, number(chance, 32)))))
        elif kind < 0.6:
            self.send(1, 0, u32(identifier, number(chance, 32)) + string(chance.choice((b"bad", b"", b"\xff\n"))))
        elif kind < 0.7:
            self.break_off()
        elif kind < 0.8:
            with contextlib.ExitStack() as stack:
                fds = self._files("more", b"", stack) * chance.choice((1, 1, 4))
                self.send(identifier, 0, u32(0), tuple(fds))
        else:
            self.events += 1
            self.write(chance.randbytes(chance.choice((1, 4, 8, 12, 200, 5000))))
