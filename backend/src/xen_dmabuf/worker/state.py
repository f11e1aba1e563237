# SPDX-License-Identifier: MIT
"""What a worker stores of its DomU, as types: the table in the state file, and one file a buffer.

A stored state is input like any other: read() decodes it with all bounds, and check() asks whether
its parts agree. Nothing here opens or maps anything. Any thread.
"""

from __future__ import annotations

import array
import json
from dataclasses import field
from typing import Any

from .. import codec
from ..codec import CodecError, choice, number, required, text
from ..config import STRATEGIES, Config
from ..displif import geometry, wire
from ..displif.spec import ConnectorSpec
from ..kbdif.spec import InputSpec
from ..record import record
from .statefile import StateError

VERSION = 1
_U32 = 0xFFFFFFFF


@record
class StoredConnector:
    """``journal``: slot in the state file; ports: local ones of the stored evtchn file.

    ``config``: the six numbers of SET_CONFIG that holds, empty if none does.
    """

    spec: ConnectorSpec
    journal: int = number(high=255)
    req_port: int = number(high=_U32)
    evt_port: int = number(high=_U32)
    config: tuple[int, ...] = ()


@record
class StoredFramebuffer:
    cookie: int = number(low=1)
    buffer: int = number(low=1)
    width: int = number(low=1, high=1 << 16)
    height: int = number(low=1, high=1 << 16)
    pixel_format: int = number(high=_U32)


@record
class StoredDevice:
    """``buffers``: the files of its display buffers have these numbers in their names."""

    device: int = number(high=99_999)
    connectors: tuple[StoredConnector, ...] = ()
    buffers: tuple[int, ...] = ()
    framebuffers: tuple[StoredFramebuffer, ...] = ()


@record
class StoredInput:
    """``port``: the local one of the stored evtchn file."""

    device: int = number(high=99_999)
    port: int = number(high=_U32)
    spec: InputSpec = required()


@record
class StoredWorker:
    version: int = number(low=VERSION, high=VERSION)
    domid: int = number(high=0x7FEF)
    name: str = text(longest=64)
    restarts: int = number(0)
    config: Config = field(default_factory=Config)
    devices: tuple[StoredDevice, ...] = ()
    inputs: tuple[StoredInput, ...] = ()


@record
class StoredBuffer:
    """One display buffer but for its references; ``strategy`` empty: not backed yet."""

    cookie: int = number(low=1)
    width: int = number(high=1 << 16)
    height: int = number(high=1 << 16)
    bpp: int = number(high=64)
    stride: int = number(high=_U32)
    buffer_sz: int = number(low=1, high=_U32)
    data_ofs: int = number(high=_U32)
    strategy: str = choice("", ("", *STRATEGIES))
    allocator: str = text("", longest=16)
    why: str = ""
    number: int = number(-1, low=-1, high=1 << 20)
    refused: dict[str, str] = field(default_factory=dict)


def pack(value: object) -> bytes:
    """The text of a StoredWorker."""
    return json.dumps(codec.encode(value), separators=(",", ":")).encode()


def pack_buffer(buffer: StoredBuffer, refs: list[int]) -> bytes:
    """The text, and after its line the grant references: thousands of them take JSON too long."""
    return pack(buffer) + b"\n" + array.array("I", refs).tobytes()


def _unpack(kind: type, data: bytes) -> Any:
    try:
        return codec.decode(kind, codec.from_json(data))
    except CodecError as error:
        raise StateError(str(error)) from error


def read(data: bytes, domid: int) -> StoredWorker:
    """The table of domain ``domid``; StateError says what can't be."""
    stored: StoredWorker = _unpack(StoredWorker, data)
    if stored.domid != domid:
        raise StateError(f"is of domain {stored.domid}, this is the worker of domain {domid}")
    quota = stored.config.quota_for(stored.name)
    for device in stored.devices:
        _check(device, quota.connectors, quota.buffers)
    numbers = [device.device for device in stored.devices]
    journals = [c.journal for device in stored.devices for c in device.connectors]
    buffers = [number for device in stored.devices for number in device.buffers]
    inputs = [entry.device for entry in stored.inputs]
    for what, values in (
        *(("device", numbers), ("journal", journals), ("buffer", buffers)),
        *(("input device", inputs), ("port", _ports(stored))),
    ):
        if len(set(values)) != len(values):
            raise StateError(f"names a {what} twice")
    return stored


def _ports(stored: StoredWorker) -> list[int]:
    """All local ports: two that are one would take each other's events."""
    connectors = [connector for device in stored.devices for connector in device.connectors]
    of_connectors = [port for connector in connectors for port in (connector.req_port, connector.evt_port)]
    return of_connectors + [entry.port for entry in stored.inputs]


def _check(device: StoredDevice, connectors: int, buffers: int) -> None:
    if not 1 <= len(device.connectors) <= connectors:
        raise StateError(f"has {len(device.connectors)} connectors, the quota is {connectors}")
    if len(device.buffers) > buffers or len(device.framebuffers) > 2 * buffers:
        raise StateError(f"has more buffers or framebuffers than the quota, {buffers}, allows")
    for index, connector in enumerate(device.connectors):
        if connector.spec.index != index:
            raise StateError(f"has connector {connector.spec.index} in place of {index}")
        if len(connector.config) not in (0, 6):
            raise StateError(f"has {len(connector.config)} numbers of SET_CONFIG")
    cookies = [framebuffer.cookie for framebuffer in device.framebuffers]
    if len(set(cookies)) != len(cookies):
        raise StateError("names a framebuffer twice")


def read_buffer(data: bytes) -> tuple[StoredBuffer, list[int]]:
    """The buffer and its grant references; StateError says what can't be."""
    head, _line, tail = data.partition(b"\n")
    buffer: StoredBuffer = _unpack(StoredBuffer, head)
    refs = array.array("I")
    refs.frombytes(tail[: len(tail) // 4 * 4])
    pages = -(-buffer.buffer_sz // wire.PAGE_SIZE)
    if len(tail) != 4 * pages or len(set(refs)) != pages or 0 in refs:
        raise StateError(f"buffer {buffer.cookie:#x}: not {pages} references of pages")
    if buffer.stride != geometry.stride_of(buffer.width, buffer.bpp):
        raise StateError(f"buffer {buffer.cookie:#x}: lines of {buffer.stride} bytes")
    if buffer.stride * buffer.height + buffer.data_ofs > buffer.buffer_sz:
        raise StateError(f"buffer {buffer.cookie:#x}: its lines are longer than it is")
    if buffer.strategy and not buffer.stride * buffer.height:
        raise StateError(f"buffer {buffer.cookie:#x}: a strategy, and no size")
    return buffer, refs.tolist()
