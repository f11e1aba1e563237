# SPDX-License-Identifier: MIT
"""Every message between supervisor and worker, in both directions, and their lines.

A line is a JSON object: the message's fields, and "type", its name in lower case with hyphens. The
worker listens on a socket that systemd made for its unit, the supervisor connects. The worker's
first message is Hello. A worker is as little trusted as its DomU: parse() refuses what has another
shape, and the supervisor then ends it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import field
from typing import ClassVar

from .. import codec
from ..codec import CodecError, number, required, text
from ..config import MOST_IDLE, Config, ConnectorConfig
from ..displif.spec import ConnectorSpec
from ..kbdif.spec import InputSpec
from ..record import record

LONGEST = 1 << 16
"""Bytes of a line, but for a Report."""
LONGEST_REPORT = 4 << 20
"""The status of as many buffers as the configuration allows has 1 MiB, and a domain may have several devices."""
REASON = 500
"""Characters of a reason."""

_DEVICE = 99_999
_NAMES = 64
_TITLE = 512


class Message:
    """The base of all messages."""

    TYPE: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.TYPE = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()


# -- from the supervisor


@record
class Start(Message):
    """To a worker without a domain: the first message. It answers Ready, or ends."""

    domid: int = number(high=0x7FEF)
    name: str = text(longest=_NAMES)
    config: Config = field(default_factory=Config)


@record
class Connect(Message):
    """The frontend has published these; the worker answers Connected or Refused."""

    device: int = number(high=_DEVICE)
    connectors: tuple[ConnectorSpec, ...] = ()


@record
class Disconnect(Message):
    """Give everything back; the worker answers Disconnected."""

    device: int = number(high=_DEVICE)


@record
class ConnectInput(Message):
    """As Connect, of an input device (vkb); the worker answers InputConnected or InputRefused."""

    device: int = number(high=_DEVICE)
    spec: InputSpec = required()


@record
class DisconnectInput(Message):
    """Release what is pressed and give the page back; the worker answers InputDisconnected."""

    device: int = number(high=_DEVICE)


@record
class Rename(Message):
    """The toolstack calls the domain otherwise now. What the configuration says by the old name stays until
    the frontend connects again."""

    name: str = text(longest=_NAMES)


@record
class AskStatus(Message):
    """The worker answers Report."""


@record
class IdleScreen(Message):
    """A screen without its guest, by its name in the configuration. ``width``, ``height``: pixels that it had last,
    0: not known. ``undecided``: whether its guest is there is not known yet, so its window stays, or isn't opened."""

    name: str = text(longest=_TITLE)
    title: str = text(longest=_TITLE)
    app_id: str = text(longest=_TITLE)
    width: int = number(0, high=16384)
    height: int = number(0, high=16384)
    settings: ConnectorConfig = field(default_factory=ConnectorConfig)
    undecided: bool = False


@record
class ShowIdle(Message):
    """To the worker without a guest: have windows for these screens and no others, in the compositor at
    ``socket``. It answers IdleShown, and again whenever that changes."""

    socket: str = text(longest=4096)
    screens: tuple[IdleScreen, ...] = ()


# -- from the worker


@record
class Held(Message):
    """A device that is connected, and to what."""

    device: int = number(high=_DEVICE)
    connectors: tuple[ConnectorSpec, ...] = ()


@record
class HeldInput(Message):
    """An input device that is connected, and to what."""

    device: int = number(high=_DEVICE)
    spec: InputSpec = required()


@record
class Hello(Message):
    """First on each connection: what the worker has, for a supervisor that was restarted or a
    worker that goes on from a stored state. ``domid`` -1: nothing, it waits for Start. ``config``
    is what it was started with, ``name`` what it calls the domain, empty if it doesn't say."""

    domid: int = number(low=-1, high=0x7FEF)
    config: Config = field(default_factory=Config)
    devices: tuple[Held, ...] = ()
    inputs: tuple[HeldInput, ...] = ()
    name: str = text("", longest=_NAMES)


@record
class Ready(Message):
    """The worker has opened its devices."""


@record
class Connected(Message):
    device: int = number(high=_DEVICE)


@record
class Refused(Message):
    """The frontend can't be connected as it is."""

    device: int = number(high=_DEVICE)
    reason: str = text(longest=REASON)


@record
class Failed(Message):
    """A connected frontend broke the protocol."""

    device: int = number(high=_DEVICE)
    reason: str = text(longest=REASON)


@record
class Disconnected(Message):
    """``released``: no page of the DomU is mapped any more; false: the compositor holds some."""

    device: int = number(high=_DEVICE)
    released: bool = False


@record
class InputConnected(Message):
    device: int = number(high=_DEVICE)


@record
class InputRefused(Message):
    """The frontend can't be connected as it is."""

    device: int = number(high=_DEVICE)
    reason: str = text(longest=REASON)


@record
class InputDisconnected(Message):
    device: int = number(high=_DEVICE)


@record
class ConnectorStatus(Message):
    """Counters since the frontend connected; ages in milliseconds, -1: never; ``warning``: why it may stay black."""

    index: int
    name: str
    width: int
    height: int
    fb_cookie: int
    hidden: bool
    flips_requested: int = 0
    flips_shown: int = 0
    flips_not_shown: int = 0
    flips_open: int = 0
    events_dropped: int = 0
    requests_refused: int = 0
    protocol_errors: int = 0
    flip_age: int = number(-1, low=-1)
    frame_age: int = number(-1, low=-1)
    refreshing: bool = False
    refresh_per_second: int = 0
    output: str = text("", longest=256)
    present_latency: int = number(-1, low=-1)
    present_missed: int = 0
    warning: str = text("", longest=REASON)


@record
class BufferStatus(Message):
    """A display buffer: pixels, bytes of a line, pages of 4096 bytes; ``why`` this strategy."""

    cookie: int
    width: int
    height: int
    formats: tuple[str, ...]
    stride: int
    pages: int
    strategy: str
    allocator: str
    why: str
    fd: int = number(-1, low=-1, high=1 << 31)


@record
class DeviceStatus(Message):
    connectors: tuple[ConnectorStatus, ...] = ()
    buffers: tuple[BufferStatus, ...] = ()


@record
class InputStatus(Message):
    """Of an input device: whose windows it hears, and numbers of events; never which key.

    Counters since the frontend connected or the process started."""

    keyboard: str
    pointer: str
    touch: str
    pressed: int = 0
    touches: int = 0
    events_sent: int = 0
    events_coalesced: int = 0
    events_dropped: int = 0
    events_waiting: int = 0
    keys_withheld: int = 0


@record
class WorkerStatus(Message):
    """``flips``: who serves plain ones, "compiled" or "python"; ``restarts``: how often a worker went on from a
    stored state; ``pages_late``: pages that a compositor held longer than a frontend waits;
    ``releasing_pages``: those that it holds now."""

    pid: int = 0
    compositor: bool = False
    driver: str = ""
    caches: str = ""
    frames_written_back: int = 0
    flips: str = ""
    events_throttled: int = 0
    pixel_bytes_copied: int = 0
    pages_late: int = 0
    releasing_pages: int = 0
    restarts: int = 0
    devices: dict[str, DeviceStatus] = field(default_factory=dict)
    inputs: dict[str, InputStatus] = field(default_factory=dict)


@record
class Report(Message):
    status: WorkerStatus = field(default_factory=WorkerStatus)


@record
class IdleShown(Message):
    """The names of the screens that have a window."""

    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) > MOST_IDLE:
            raise CodecError(f"idle-shown: {len(self.names)} names are too many")


TO_WORKER = (Start, Connect, Disconnect, ConnectInput, DisconnectInput, Rename, AskStatus)
TO_IDLE = (ShowIdle,)
TO_SUPERVISOR = (
    *(Hello, Ready, Report, IdleShown),
    *(Connected, Refused, Failed, Disconnected),
    *(InputConnected, InputRefused, InputDisconnected),
)


def line(message: Message) -> bytes:
    """A message's line."""
    assert dataclasses.is_dataclass(message)
    return json.dumps({"type": message.TYPE, **codec.encode(message)}).encode() + b"\n"


def parse(data: bytes, known: tuple[type[Message], ...]) -> Message:
    """The message of a line, one of the types ``known``; CodecError says what is wrong with it."""
    fields = codec.from_json(data)
    name = fields.pop("type", None) if isinstance(fields, dict) else None
    kinds = [kind for kind in known if name == kind.TYPE]
    if not kinds:
        raise CodecError(f"unknown message {str(name)[:40]!r}")
    if len(data) > LONGEST and kinds[0] not in (Report, ShowIdle):
        raise CodecError(f"{name}: {len(data)} bytes are too many")
    message: Message = codec.decode(kinds[0], fields, str(name))
    return message
