# SPDX-License-Identifier: MIT
"""The configuration, /etc/xen-dmabuf/backend.toml and drop-ins, as frozen dataclasses.

Unknown tables and keys, wrong types and values out of range are a UserError that names file and
key. data/backend.toml comments every key.
"""

from __future__ import annotations

import os
import re
from dataclasses import field
from typing import Any

from .codec import CodecError, choice, decode, number, text
from .errors import UserError
from .record import record

STRATEGIES = ("map", "export", "copy")
ALLOCATORS = ("gbm", "dumb")
CACHES = ("auto", "always", "never", "guest")
SCALES = ("down", "fit", "stretch", "none")
PLACEMENTS = ("window", "maximised", "fullscreen")
KEYBOARDS = ("after-click", "always")
ABSENT = ("nothing", "idle")
MOST_IDLE = 16
"""Screens that may have an idle picture without their guest."""
_COLOUR = re.compile("#[0-9a-fA-F]{6}")
LEVELS = ("debug", "info", "warning", "error")


@record
class Quota:
    """What one DomU may hold at once; pages are of 4096 bytes."""

    connectors: int = number(4, low=1, high=16)
    buffers: int = number(64, low=1, high=1024)  # three files each: FileDescriptorStoreMax=
    pages: int = number(65536, low=1, high=1 << 20)
    width: int = number(8192, low=1, high=16384)
    height: int = number(8192, low=1, high=16384)


@record
class Display:
    """Where and how the workers show their DomU."""

    socket: str = "/run/wayland-0"
    app_id: str = "xen-dmabuf"
    hidden_flips_per_second: int = number(10, low=1, high=60)


@record
class Gpu:
    """Buffer strategies, tried in order, where ``map`` takes its buffers from, and whether the
    CPU's caches are written back before the GPU reads, and by whom."""

    device: str = ""
    strategies: tuple[str, ...] = choice(STRATEGIES, STRATEGIES)
    allocators: tuple[str, ...] = choice(ALLOCATORS, ALLOCATORS)
    caches: str = choice("auto", CACHES)


@record
class ConnectorConfig:
    """One screen of one DomU: where and how it is shown, and who gets the keyboard.

    ``output``: a wl_output's name, "" for the compositor's choice. ``ivi_id``: 0 for none.
    ``idle``: "#rrggbb" or the path of a PPM file. ``refresh_per_second``: of a guest that draws
    without flips. ``keyboard``: whether keys need a click or touch in it first. ``absent``: what is shown
    while its guest isn't there; only a table without "*" names a screen that there is then.
    """

    output: str = text("", longest=256)
    placement: str = choice("window", PLACEMENTS)
    scale: str = choice("down", SCALES)
    ivi_id: int = number(0, high=0xFFFF_FFFE)
    alpha: bool = False
    idle: str = text("#000000", longest=4096)
    refresh_per_second: int = number(15, low=1, high=60)
    keyboard: str = choice("after-click", KEYBOARDS)
    absent: str = choice("nothing", ABSENT)

    def __post_init__(self) -> None:
        if not _COLOUR.fullmatch(self.idle) and not self.idle.startswith("/"):
            raise CodecError(f'idle: {self.idle[:80]!r}: "#rrggbb" or the absolute path of a PPM file is expected')

    def colour(self) -> bytes:
        """Red, green and blue of the ground."""
        return bytes.fromhex(self.idle[1:]) if _COLOUR.fullmatch(self.idle) else bytes(3)

    def idle_file(self) -> str:
        """The idle picture's path, or ""."""
        return "" if _COLOUR.fullmatch(self.idle) else self.idle


@record
class Config:
    log_level: str = choice("info", LEVELS)
    control_socket: str = "/run/xen-dmabuf/control.sock"
    display: Display = field(default_factory=Display)
    gpu: dict[str, Gpu] = field(default_factory=lambda: {"default": Gpu()})
    quota: dict[str, Quota] = field(default_factory=lambda: {"default": Quota()})
    connector: dict[str, ConnectorConfig] = field(default_factory=lambda: {"*": ConnectorConfig()})

    def __post_init__(self) -> None:
        """A stored state or a message may lack what a file gets by itself: CodecError."""
        for name, first in _NAMED.items():
            if first not in getattr(self, name):
                raise CodecError(f'{name}: the table "{first}" is missing')
        if len(self.idle_screens) > MOST_IDLE:
            raise CodecError(
                f'connector: absent = "idle" for {len(self.idle_screens)} screens; at most {MOST_IDLE} are allowed'
            )

    def gpu_for(self, driver: str) -> Gpu:
        """The table [gpu.<driver>], else [gpu.default]."""
        return self.gpu.get(driver, self.gpu["default"])

    @property
    def guests_write_back(self) -> bool:
        """Whether guests are offered to write caches back themselves: before a worker runs, no GPU is known."""
        return any(gpu.caches == "guest" for gpu in self.gpu.values())

    @property
    def idle_screens(self) -> dict[str, ConnectorConfig]:
        """Those that are shown without their guest, by "<domain name>.<unique-id>"."""
        named = ((name, screen) for name, screen in self.connector.items() if "*" not in name)
        return {name: screen for name, screen in named if screen.absent == "idle"}

    def quota_for(self, domain: str) -> Quota:
        """The table [quota.<domain name>], else [quota.default]."""
        return self.quota.get(domain, self.quota["default"])

    def connector_for(self, domain: str, unique_id: str) -> ConnectorConfig:
        """The table [connector."<domain name>.<unique-id>"], else the longest pattern that fits."""
        name = f"{domain}.{unique_id}"
        if name in self.connector:
            return self.connector[name]
        fitting = [pattern for pattern in self.connector if _fits(pattern, name)]
        return self.connector[max(fitting, key=lambda pattern: (len(pattern), pattern))]


def _fits(pattern: str, name: str) -> bool:
    """Whether ``name`` is ``pattern``, in which "*" stands for any characters."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


_NAMED = {"gpu": "default", "quota": "default", "connector": "*"}
"""Tables of tables, and the one of each that the others start from."""


def _read(path: str) -> dict[str, Any]:
    """A file's plain data, which is valid by itself; UserError names the file."""
    import tomllib  # here, as a worker never reads one

    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
        _decode(data)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    except (OSError, UnicodeDecodeError, CodecError) as error:
        raise UserError(f"{path}: {error}") from error
    return data


def _decode(data: dict[str, Any]) -> Config:
    """CodecError names the key and what is allowed."""
    data = dict(data)
    for name, first in _NAMED.items():
        tables = data.get(name, {})
        if isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values()):
            default = tables.get(first, {})
            merged = {key: default | table for key, table in tables.items()}
            data[name] = {first: default} | merged
    config: Config = decode(Config, data)
    return config


def _merge(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """``more`` over ``base``, table by table."""
    merged = dict(base)
    for key, value in more.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _drop_ins(folder: str) -> list[str]:
    """In the order of their names; UserError if there is a folder that can't be read."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from error
    return [f"{folder}/{name}" for name in names if name.endswith(".toml")]


def load(path: str, *, must_exist: bool) -> Config:
    """Read ``path`` and the drop-ins ``path``.d/*.toml, in the order of their names.

    Without ``path`` the defaults are the base, unless ``must_exist``. UserError.
    """
    files = _drop_ins(f"{path}.d")
    if os.path.exists(path):
        files.insert(0, path)
    elif must_exist:
        raise UserError(f"{path}: no such configuration file")
    data: dict[str, Any] = {}
    for file in files:
        data = _merge(data, _read(file))
    return _decode(data)
