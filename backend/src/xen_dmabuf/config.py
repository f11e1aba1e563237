# SPDX-License-Identifier: MIT
"""The configuration file, /etc/xen-dmabuf/backend.toml, as frozen dataclasses.

Unknown tables and keys, wrong types and values out of range are a UserError that names the key.
data/backend.toml comments every key.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UserError

STRATEGIES = ("map", "export", "copy")
ALLOCATORS = ("gbm", "dumb")
CACHES = ("auto", "always", "never")
SCALES = ("down", "fit")


@dataclass(frozen=True)
class Quota:
    """What one DomU may hold at once; pages are of 4096 octets."""

    connectors: int = 4
    buffers: int = 64
    pages: int = 65536
    width: int = 8192
    height: int = 8192


@dataclass(frozen=True)
class Display:
    """Where and how the workers show their DomU."""

    socket: str = "/run/wayland-0"
    app_id: str = "xen-dmabuf"
    scale: str = "down"
    hidden_flips_per_second: int = 10


@dataclass(frozen=True)
class Gpu:
    """Buffer strategies, tried in order, where ``map`` takes its buffers from, and whether the
    CPU's caches are written back before the GPU reads."""

    device: str = ""
    strategies: tuple[str, ...] = STRATEGIES
    allocators: tuple[str, ...] = ALLOCATORS
    caches: str = "auto"


@dataclass(frozen=True)
class Worker:
    """The account that a worker runs as."""

    user: str = "xen-dmabuf"
    group: str = "xen-dmabuf"
    groups: tuple[str, ...] = ("wayland", "video", "render")


@dataclass(frozen=True)
class Config:
    log_level: str = "info"
    control_socket: str = "/run/xen-dmabuf/control.sock"
    display: Display = field(default_factory=Display)
    gpu: dict[str, Gpu] = field(default_factory=lambda: {"default": Gpu()})
    quota: dict[str, Quota] = field(default_factory=lambda: {"default": Quota()})
    worker: Worker = field(default_factory=Worker)

    def gpu_for(self, driver: str) -> Gpu:
        """The table [gpu.<driver>], else [gpu.default]."""
        return self.gpu.get(driver, self.gpu["default"])

    def quota_for(self, domain: str) -> Quota:
        """The table [quota.<domain name>], else [quota.default]."""
        return self.quota.get(domain, self.quota["default"])


_CHOICES = {
    "log_level": ("debug", "info", "warning", "error"),
    "scale": SCALES,
    "strategies": STRATEGIES,
    "allocators": ALLOCATORS,
    "caches": CACHES,
}
_LIMITS = {
    "connectors": (1, 16),
    "buffers": (1, 4096),
    "pages": (1, 1 << 20),
    "width": (1, 16384),
    "height": (1, 16384),
    "hidden_flips_per_second": (1, 60),
}


def _check(key: str, name: str, value: object, kind: type) -> object:
    """``value`` of the type of the dataclass's default, with lists made tuples."""
    if kind is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{key}: a list of strings is expected, not {value!r}")
    elif not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{key}: {kind.__name__} is expected, not {value!r}")
    if name in _LIMITS:
        low, high = _LIMITS[name]
        if not low <= value <= high:  # type: ignore[operator]
            raise UserError(f"{key}: {value} is not within {low} to {high}")
    if name in _CHOICES:
        items = value if isinstance(value, list) else [value]
        wrong = [item for item in items if item not in _CHOICES[name]]
        if wrong or not items:
            raise UserError(f"{key}: {wrong or 'empty'}: choose from {', '.join(_CHOICES[name])}")
    return tuple(value) if isinstance(value, list) else value


def _table(kind: type, prefix: str, data: object, base: object | None = None):
    """A dataclass from a TOML table; keys that are absent keep ``base``'s value."""
    if not isinstance(data, dict):
        raise UserError(f"{prefix}: a table is expected, not {data!r}")
    base = kind() if base is None else base
    known = {item.name: getattr(base, item.name) for item in dataclasses.fields(kind)}
    changes = {}
    for name, value in data.items():
        key = f"{prefix}.{name}" if prefix else name
        if name not in known:
            raise UserError(f"{key}: unknown key; known here are {', '.join(known)}")
        changes[name] = _check(key, name, value, type(known[name]))
    return dataclasses.replace(base, **changes)


def _named_tables(kind: type, prefix: str, data: object) -> dict:
    """[prefix.default] and [prefix.<name>], the latter starting from the former."""
    if not isinstance(data, dict):
        raise UserError(f"{prefix}: tables [{prefix}.default] … are expected, not {data!r}")
    default = _table(kind, f"{prefix}.default", data.get("default", {}))
    tables = {"default": default}
    for name, value in data.items():
        tables[name] = _table(kind, f"{prefix}.{name}", value, default)
    return tables


def parse(text: str) -> Config:
    """UserError names the key and what is allowed."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"not valid TOML: {error}") from error
    parts = {
        "display": lambda table: _table(Display, "display", table),
        "worker": lambda table: _table(Worker, "worker", table),
        "gpu": lambda table: _named_tables(Gpu, "gpu", table),
        "quota": lambda table: _named_tables(Quota, "quota", table),
    }
    built = {name: make(data.pop(name)) for name, make in parts.items() if name in data}
    top = {"log_level": str, "control_socket": str}
    for name, value in data.items():
        if name not in top:
            known = ", ".join([*top, *parts])
            raise UserError(f"{name}: unknown key or table; known are {known}")
        built[name] = _check(name, name, value, top[name])
    return Config(**built)


def load(path: str, *, must_exist: bool) -> Config:
    """Read ``path``; without it the defaults apply unless ``must_exist``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        if must_exist:
            raise UserError(f"{path}: no such configuration file") from None
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    try:
        return parse(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def to_plain(config: Config) -> dict:
    """JSON-able form, for the worker; parse_plain() is its inverse."""
    return dataclasses.asdict(config)


def parse_plain(data: dict) -> Config:
    """A Config from to_plain()'s form."""

    def build(kind: type, table: dict):
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        return kind(**values)

    return Config(
        log_level=data["log_level"],
        control_socket=data["control_socket"],
        display=build(Display, data["display"]),
        gpu={name: build(Gpu, table) for name, table in data["gpu"].items()},
        quota={name: build(Quota, table) for name, table in data["quota"].items()},
        worker=build(Worker, data["worker"]),
    )
