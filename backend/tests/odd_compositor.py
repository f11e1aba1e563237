# SPDX-License-Identifier: MIT
"""A compositor that does what Weston can't be asked for: it takes any descriptor for a dma-buf, it
says so when it likes, and it ends connections.

It speaks as much of Wayland as a Compositor (xen_dmabuf.worker.compositor) needs to import buffers,
and draws nothing. In the asyncio thread of the test.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from xen_dmabuf.displif import fourcc

_GLOBALS = {
    "wl_compositor": 4,
    "wl_subcompositor": 1,
    "wl_shm": 1,
    "xdg_wm_base": 1,
    "wp_viewporter": 1,
    "zwp_linux_dmabuf_v1": 3,
}
_SERVERS = 0xFF000000
_MAKES = {("wl_compositor", 0): "wl_surface", ("xdg_wm_base", 2): "xdg_surface"}


class _Client:
    def __init__(self, owner: OddCompositor, connection: socket.socket) -> None:
        self._owner = owner
        self.connection = connection
        self._kinds = {1: "wl_display"}
        self._data = b""
        self._syncs = 0
        self._next = _SERVERS
        self._waiting: list[int] = []
        self._fds: list[int] = []
        self._planes: dict[int, int] = {}
        self._frames: list[int] = []
        self._unconfigured: dict[int, int] = {}
        self._attached: dict[int, int] = {}
        self.buffers: dict[int, int] = {}
        self._roles: dict[int, int] = {}
        asyncio.get_running_loop().add_reader(connection, self._readable)

    def close(self) -> None:
        if self.connection.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.connection)
            self.connection.close()
        for fd in (*self._fds, *self._planes.values(), *self.buffers.values()):
            os.close(fd)
        self._fds.clear()
        self._planes.clear()
        self.buffers.clear()

    def _readable(self) -> None:
        try:
            data, fds, _flags, _address = socket.recv_fds(self.connection, 65536, 28)
        except ConnectionError:
            data, fds = b"", []
        self._fds += fds
        if not data:
            self.close()
            return
        self._data += data
        while len(self._data) >= 8:
            identifier, word = struct.unpack_from("@II", self._data)
            size = word >> 16
            if len(self._data) < size:
                return
            body, self._data = self._data[8:size], self._data[size:]
            self._request(identifier, word & 0xFFFF, body)

    def _send(self, identifier: int, opcode: int, body: bytes = b"") -> None:
        if self.connection.fileno() >= 0:
            header = struct.pack("@II", identifier, (8 + len(body)) << 16 | opcode)
            self.connection.send(header + body)

    def _request(self, identifier: int, opcode: int, body: bytes) -> None:
        kind = self._kinds.get(identifier)
        if kind == "wl_display":
            (new,) = struct.unpack("@I", body)
            (self._registry if opcode else self._sync)(new)
        elif kind == "wl_registry":
            self._bind(body)
        elif (kind, opcode) in _MAKES:
            self._kinds[struct.unpack_from("@I", body)[0]] = _MAKES[kind, opcode]
            if kind == "xdg_wm_base":
                self._unconfigured[struct.unpack("@II", body)[1]] = struct.unpack_from("@I", body)[0]
        elif kind == "xdg_surface" and opcode == 1:  # get_toplevel
            self._roles[identifier] = struct.unpack("@I", body)[0]
        elif kind == "xdg_surface" and opcode == 3:  # set_window_geometry
            self._owner.geometry = struct.unpack("@4i", body)[2:]
        elif kind == "wl_surface":
            self._surface(identifier, opcode, body)
        elif kind == "zwp_linux_dmabuf_v1" and opcode == 1:
            self._kinds[struct.unpack("@I", body)[0]] = "params"
        elif kind == "wl_shm":  # create_pool
            os.close(self._fds.pop(0))
        elif kind == "params" and opcode == 1:  # add
            self._planes[identifier] = self._fds.pop(0)
        elif kind == "params" and opcode == 2:
            self._waiting.append(identifier)
            self._owner.taken.add(struct.unpack("@2i2I", body)[2])
            self._owner.asked += 1
            if not self._owner.holding:
                self.answer()
        elif kind == "wl_buffer" and opcode == 0:
            os.close(self.buffers.pop(identifier))
            self._owner.destroyed += 1

    def _surface(self, identifier: int, opcode: int, body: bytes) -> None:
        if opcode == 1:  # attach
            self._attached[identifier] = struct.unpack_from("@I", body)[0]
        elif opcode == 3:  # frame
            self._frames.append(struct.unpack("@I", body)[0])
        elif opcode == 6 and identifier in self._unconfigured:  # commit
            self.configure(self._unconfigured.pop(identifier))
        elif opcode == 6 and self._owner.ends_when_shown and self._attached.get(identifier) in self.buffers:
            asyncio.get_running_loop().call_later(0.02, self.close)
        elif opcode == 6:
            while self._frames:
                self._send(self._frames.pop(0), 0, struct.pack("@I", 0))

    def configure(self, surface: int = 0) -> None:
        """An xdg_surface, or all that have a role: the bounds, if there are some, and any size."""
        for identifier, toplevel in self._roles.items():
            if surface in (0, identifier):
                if self._owner.bounds:
                    self._send(toplevel, 2, struct.pack("@2i", *self._owner.bounds))
                    self._send(toplevel, 0, struct.pack("@2iI", 0, 0, 0))
                self._send(identifier, 0, struct.pack("@I", 1))

    def _sync(self, new: int) -> None:
        self._send(new, 0, struct.pack("@I", 0))
        self._syncs += 1
        if self._syncs == 2 and self._owner.ends_connections:
            asyncio.get_running_loop().call_later(0.02, self.close)

    def _registry(self, new: int) -> None:
        self._kinds[new] = "wl_registry"
        for name, (interface, version) in enumerate(_GLOBALS.items(), 1):
            version = 4 if interface == "xdg_wm_base" and self._owner.bounds else version
            text = interface.encode() + b"\0"
            text = struct.pack("@I", len(text)) + text.ljust(-(-len(text) // 4) * 4, b"\0")
            self._send(new, 0, struct.pack("@I", name) + text + struct.pack("@I", version))

    def _bind(self, body: bytes) -> None:
        (name,) = struct.unpack_from("@I", body)
        (new,) = struct.unpack_from("@I", body, len(body) - 4)
        self._kinds[new] = list(_GLOBALS)[name - 1]
        if self._kinds[new] == "zwp_linux_dmabuf_v1":
            for code in self._owner.formats:
                self._send(new, 1, struct.pack("@III", code, 0, 0))

    def answer(self) -> None:
        """Say that all buffers are imported that were asked for."""
        for params in self._waiting:
            self._kinds[self._next] = "wl_buffer"
            self.buffers[self._next] = self._planes.pop(params)
            self._send(params, 0, struct.pack("@I", self._next))
            self._next += 1
        self._waiting.clear()


class OddCompositor:
    """A context manager. ``asked``: imports; ``taken``: their formats; ``destroyed``: wl_buffers that a client
    destroyed; ``geometry``: the last size of a window."""

    def __init__(
        self,
        path: str,
        *,
        holding: bool = False,
        ends_connections: bool = False,
        ends_when_shown: bool = False,
        formats: tuple[int, ...] = (fourcc.XRGB8888,),
        bounds: tuple[int, int] | None = None,
    ) -> None:
        """``formats`` that it lists; ``bounds`` that it names for windows, None: none."""
        self.formats = formats
        self.bounds = bounds
        self.taken: set[int] = set()
        self.geometry: tuple[int, ...] = ()
        self.holding = holding
        self.ends_connections = ends_connections
        self.ends_when_shown = ends_when_shown
        self.asked = self.destroyed = 0
        self.clients: list[_Client] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen()
        self._socket.setblocking(False)

    def __enter__(self) -> OddCompositor:
        asyncio.get_running_loop().add_reader(self._socket, self._accept)
        return self

    def __exit__(self, *_exception: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        for client in self.clients:
            client.close()

    def _accept(self) -> None:
        self.clients.append(_Client(self, self._socket.accept()[0]))

    @property
    def buffers(self) -> int:
        """The wl_buffers that there are."""
        return sum(len(client.buffers) for client in self.clients)

    def set_bounds(self, width: int, height: int) -> None:
        """Name other bounds for all windows."""
        self.bounds = width, height
        for client in self.clients:
            client.configure()

    def answer(self) -> None:
        """Answer all imports, and from now on at once."""
        self.holding = False
        for client in self.clients:
            client.answer()
