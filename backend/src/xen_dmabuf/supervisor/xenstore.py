# SPDX-License-Identifier: MIT
"""XenStore: the connection, and wary reading of what a frontend wrote.

The connection is xen.lowlevel.xs, which Debian's xen-utils keeps outside Python's path.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import limits
from ..config import Quota
from ..displif.spec import ConnectorSpec
from ..errors import RequestError, UserError
from ..kbdif.spec import MOST_CONTACTS, InputSpec
from ..record import record

_MAX_VALUE = 64  # bytes; no node of the protocols needs more, but for three names in one
_MAX_NAMES = 128
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_RESOLUTION = re.compile(r"([0-9]{1,5})x([0-9]{1,5})", re.ASCII)
_NAME = re.compile(r"[^A-Za-z0-9_-]")
_ROLES = re.compile(r"[KPT]:[^;]*(?:;[KPT]:[^;]*)*;?", re.ASCII)
_U32 = 0xFFFFFFFF
_MOST_CONNECTORS = 16


def xen_binding(name: str) -> ModuleType:
    """Xen's own module xen.lowlevel.``name``, also where Debian hides it; UserError if missing."""
    try:
        return importlib.import_module(f"xen.lowlevel.{name}")
    except ImportError:
        pass
    for directory in sorted(Path("/usr/lib").glob("xen-*/lib/python"), reverse=True):
        sys.path.append(str(directory))
        try:
            return importlib.import_module(f"xen.lowlevel.{name}")
        except ImportError:
            sys.path.remove(str(directory))
    raise UserError(
        f"Python module xen.lowlevel.{name} is missing: install xen-utils (Debian) or"
        " xen-tools-python (OpenEmbedded) for this Python"
    )


def _connection(module: ModuleType) -> Any:
    """A connection of the binding that has answered; UserError if there is none.

    Without xenstored, Dom0's kernel takes requests as well, and keeps them for ever: a thread waits for the first.
    """
    answers: list[Any] = []

    def ask() -> None:
        try:
            connection = module.xs()
            with contextlib.suppress(module.Error):  # an answer, too
                connection.read("", "domid")
            answers.append(connection)
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limits.XENSTORE)
    if not answers:
        raise UserError(f"XenStore does not answer within {limits.XENSTORE:g} s; is xenstored running?")
    if isinstance(answers[0], module.Error):
        raise UserError(f"no connection to XenStore: {answers[0]}; is xenstored running?") from answers[0]
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


class XenStore:
    """A connection of this domain. Calls are short round trips to xenstored; one thread only."""

    def __init__(self) -> None:
        module = xen_binding("xs")
        self._error = module.Error
        self._tokens: dict[str, str] = {}
        self._xs = _connection(module)

    def fileno(self) -> int:
        """Readable when watches have fired."""
        return int(self._xs.fileno())

    def close(self) -> None:
        self._xs.close()

    def read(self, path: str) -> str | None:
        """The node's text (undecodable bytes become U+FFFD), None if there is no such node."""
        try:
            value: bytes | str | None = self._xs.read("", path)
        except self._error as error:
            if error.args and error.args[0] in (errno.ENOENT, errno.EACCES):
                return None
            raise OSError(error.args[0], "XenStore", path) from error
        return None if value is None else _text(value)

    def list(self, path: str) -> list[str]:
        """The node's children; none if there is no such node."""
        try:
            return [str(name) for name in self._xs.ls("", path) or []]
        except self._error as error:
            if error.args and error.args[0] == errno.ENOENT:
                return []
            raise OSError(error.args[0], "XenStore", path) from error

    def write(self, path: str, value: str) -> None:
        self._call(path, self._xs.write, "", path, value)

    def write_where(self, existing: str, path: str, value: str, state: int | None = None) -> bool:
        """Write ``path`` if there is a node ``existing``, in one transaction; whether there was.

        With ``state`` only if that node is this XenbusState.
        """
        while True:
            transaction = self._call(path, self._xs.transaction_start)
            there = False
            try:
                there = self._there(transaction, existing, state)
                if there:
                    self._call(path, self._xs.write, transaction, path, value)
            finally:
                committed = self._end(transaction, abort=not there)
            if committed or not there:
                return there

    def _there(self, transaction: str, path: str, state: int | None) -> bool:
        try:
            value = self._xs.read(transaction, path)
            return value is not None and state in (None, _as_state(_text(value)))
        except self._error as error:
            if error.args and error.args[0] == errno.ENOENT:
                return False
            raise OSError(error.args[0], "XenStore", path) from error

    def _end(self, transaction: str, *, abort: bool) -> bool:
        """False if others changed the nodes meanwhile (EAGAIN)."""
        try:
            return self._xs.transaction_end(transaction, abort) is not False
        except self._error as error:
            if error.args and error.args[0] == errno.EAGAIN:
                return False
            raise OSError(error.args[0] if error.args else errno.EIO, "XenStore") from error

    def remove(self, path: str) -> None:
        """Remove a node; fine if there is none."""
        try:
            self._xs.rm("", path)
        except self._error as error:
            if not error.args or error.args[0] != errno.ENOENT:
                raise OSError(error.args[0], "XenStore", path) from error

    def watch(self, path: str) -> None:
        """Fires at once and at each change below ``path``; the token is the path."""
        self._call(path, self._xs.watch, path, path)
        self._tokens[path] = path

    def unwatch(self, path: str) -> None:
        """Of watch(). The binding knows a token by its address: another text of the same path is none."""
        self._call(path, self._xs.unwatch, path, self._tokens.get(path, path))
        self._tokens.pop(path, None)

    def fired(self) -> Sequence[str]:
        """The paths that changed, without blocking."""
        paths: list[str] = []
        while True:
            try:
                event = self._xs.check_watch()
            except self._error as error:
                # the binding says "none left" by None, and now and then by EAGAIN
                if error.args and error.args[0] == errno.EAGAIN:
                    return paths
                raise OSError(error.args[0] if error.args else errno.EIO, "XenStore") from error
            if event is None:
                return paths
            paths.append(str(event[0]))

    def own_domid(self) -> int:
        """The number of this domain: a node "domid" below its own home, which relative paths name."""
        text = self.read("domid")
        return int(text) if text and text.isdecimal() else 0

    def domain_exists(self, domid: int) -> bool:
        """Whether the toolstack still has the domain's home."""
        return self.read(f"/local/domain/{domid}/domid") is not None

    def _call(self, path: str, function: Callable[..., Any], *arguments: str) -> Any:
        try:
            return function(*arguments)
        except self._error as error:
            raise OSError(error.args[0] if error.args else errno.EIO, "XenStore", path) from error


def _text(value: bytes | str) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


def _bounded(store: XenStore, path: str, longest: int = _MAX_VALUE) -> str | None:
    value = store.read(path)
    if value is not None and len(value) > longest:
        raise RequestError(errno.EINVAL, path, f"{len(value)} bytes", f"at most {longest}")
    return value


def read_number(store: XenStore, path: str, low: int = 0, high: int = _U32) -> int | None:
    """A decimal node within bounds; None if absent; RequestError for anything else."""
    text = _bounded(store, path)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise RequestError(errno.EINVAL, path, repr(text), f"a decimal number {low} to {high}")
    return int(text)


def read_state(store: XenStore, path: str) -> int | None:
    """An XenbusState; None for an absent node, 0 (Unknown) for what is none."""
    text = store.read(path)
    return None if text is None else _as_state(text)


def _as_state(text: str) -> int:
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= 8 else 0


def _needed(store: XenStore, path: str) -> int:
    value = read_number(store, path, low=1)
    if value is None:
        raise RequestError(errno.ENOENT, path, None, "the frontend must write it before state 3")
    return value


def read_resolution(store: XenStore, path: str, quota: Quota) -> tuple[int, int] | None:
    """Pixels, within the quota; None if absent."""
    text = _bounded(store, path)
    if text is None:
        return None
    match = _RESOLUTION.fullmatch(text)
    if not match:
        raise RequestError(errno.EINVAL, path, repr(text), "<width>x<height>")
    width, height = int(match[1]), int(match[2])
    if not (0 < width <= quota.width and 0 < height <= quota.height):
        raise RequestError(errno.EINVAL, path, text, f"at most {quota.width}x{quota.height}, see [quota]")
    return width, height


def _connector_name(store: XenStore, path: str, index: int) -> str:
    return _name(_bounded(store, f"{path}/unique-id") or "", index)


def _name(text: str, index: int) -> str:
    """A connector's name: the unique-id, or the index."""
    return _NAME.sub("_", text.strip())[:32] or str(index)


def read_connectors(
    store: XenStore, frontend: str, quota: Quota, offers_write_back: bool = False
) -> list[ConnectorSpec]:
    """The connectors that are served: from index 0 on, until one has no resolution, isn't published, or
    is beyond the quota; left_out() names the others. What was not offered has no effect.

    RequestError names the node and the value. Ports and references must be unique.
    """
    specs: list[ConnectorSpec] = []
    version = 2 if store.read(f"{frontend}/version") == "2" else 1
    written_back = offers_write_back and _flag(store, f"{frontend}/request-write-back")
    for index in range(quota.connectors):
        path = f"{frontend}/{index}"
        size = read_resolution(store, f"{path}/resolution", quota)
        if size is None or (specs and store.read(f"{path}/req-ring-ref") is None):
            break
        specs.append(
            ConnectorSpec(
                index,
                _connector_name(store, path, index),
                *size,
                req_ref=_needed(store, f"{path}/req-ring-ref"),
                req_port=_needed(store, f"{path}/req-event-channel"),
                evt_ref=_needed(store, f"{path}/evt-ring-ref"),
                evt_port=_needed(store, f"{path}/evt-event-channel"),
                version=version,
                written_back=written_back,
            )
        )
    if not specs:
        raise RequestError(errno.ENOENT, f"{frontend}/0/resolution", None, "at least one connector is needed")
    _check_unique(specs, frontend)
    return specs


def left_out(store: XenStore, frontend: str, quota: Quota, served: int) -> str:
    """Why connectors that the toolstack has configured are not served; "" if all are."""
    last = served
    while last < _MOST_CONNECTORS and store.read(f"{frontend}/{last}/resolution") is not None:
        last += 1
    if last == served:
        return ""
    names = ", ".join(str(index) for index in range(served, last))
    if served >= quota.connectors:
        return f"connectors {names} are not served: the quota is {quota.connectors}, see [quota]"
    return f"connectors {names} are not served: the frontend has not published them (drm_xen_front takes 4)"


def _check_unique(specs: list[ConnectorSpec], frontend: str) -> None:
    refs = [ref for spec in specs for ref in (spec.req_ref, spec.evt_ref)]
    ports = [port for spec in specs for port in (spec.req_port, spec.evt_port)]
    for what, values in (("ring-ref", refs), ("event-channel", ports)):
        if len(set(values)) != len(values):
            raise RequestError(errno.EINVAL, f"{frontend}/*/{what}", values, "must be unique")


# -- input devices


@record
class InputFeatures:
    """What the toolstack made of an input device: an InputSpec but for what the frontend has a say in."""

    keyboard: str
    pointer: str
    touch: str
    absolute: bool
    width: int
    height: int
    touch_width: int
    touch_height: int
    contacts: int


def read_input_features(store: XenStore, backend: str, number: int) -> InputFeatures:
    """From the backend's own node, which no DomU can write. RequestError names node and remedy."""
    names = _input_names(store, f"{backend}/unique-id", number)
    has_keyboard = not _flag(store, f"{backend}/feature-disable-keyboard")
    has_pointer = not _flag(store, f"{backend}/feature-disable-pointer")
    has_touch = _flag(store, f"{backend}/feature-multi-touch")
    if has_keyboard and not has_pointer:
        raise RequestError(
            errno.EINVAL,
            f"{backend}/feature-disable-pointer",
            1,
            "a keyboard without a pointer: any key makes mainline's xen-kbdfront dereference NULL (info->ptr), which"
            " takes the guest down; leave feature-disable-pointer out of the domain's vkb. This project's guest"
            " series has the patch, but no guest says that it has it",
        )
    return InputFeatures(
        names["K"] if has_keyboard else "",
        names["P"] if has_pointer else "",
        names["T"] if has_touch else "",
        _flag(store, f"{backend}/feature-abs-pointer"),
        _size(store, f"{backend}/width", 800),
        _size(store, f"{backend}/height", 600),
        _size(store, f"{backend}/multi-touch-width", 800) if has_touch else 0,
        _size(store, f"{backend}/multi-touch-height", 600) if has_touch else 0,
        _number_or(store, f"{backend}/multi-touch-num-contacts", 1, MOST_CONTACTS) if has_touch else 0,
    )


def read_input(store: XenStore, frontend: str, features: InputFeatures) -> InputSpec | None:
    """What the frontend published, None if that isn't all there. RequestError for anything else.

    A feature that it asks for and was not offered has no effect (kbdif.h), nor has one that was
    offered and that it does not ask for.
    """
    ref = read_number(store, f"{frontend}/page-gref", low=1)
    port = read_number(store, f"{frontend}/event-channel", low=1)
    if ref is None or port is None:
        return None
    absolute = features.absolute and bool(features.pointer) and _flag(store, f"{frontend}/request-abs-pointer")
    touch = bool(features.touch) and _flag(store, f"{frontend}/request-multi-touch")
    return InputSpec(
        ref,
        port,
        features.keyboard,
        features.pointer,
        features.touch if touch else "",
        features.width if absolute else 0,
        features.height if absolute else 0,
        features.touch_width if touch else 0,
        features.touch_height if touch else 0,
        features.contacts if touch else 0,
    )


def _input_names(store: XenStore, path: str, number: int) -> dict[str, str]:
    """The connectors of keyboard, pointer and touch screen: one unique-id for all, or `K:id;P:id;T:id`,
    as displ_be's configurations have it; what that leaves out is for no connector."""
    text = (_bounded(store, path, _MAX_NAMES) or "").strip()
    if not _ROLES.fullmatch(text):
        return dict.fromkeys("KPT", _name(text, number))
    names = dict.fromkeys("KPT", "")
    for part in filter(None, text.split(";")):
        role, name = part[0], part[2:].strip()
        if names[role] or not name:
            raise RequestError(errno.EINVAL, path, repr(text), "K, P and T at most once each, with a name")
        names[role] = _name(name, number)
    return names


def _number_or(store: XenStore, path: str, default: int, high: int) -> int:
    value = read_number(store, path, 1, high)
    return default if value is None else value


def _size(store: XenStore, path: str, default: int) -> int:
    """``default`` is what xen-kbdfront takes."""
    return _number_or(store, path, default, 1 << 16)


def _flag(store: XenStore, path: str) -> bool:
    return bool(read_number(store, path))
