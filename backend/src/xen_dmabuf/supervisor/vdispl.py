# SPDX-License-Identifier: MIT
"""One vdispl device as the supervisor sees it: its XenStore nodes and what its worker holds."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable

from .. import limits
from ..config import Quota
from ..displif import wire
from ..displif.spec import ConnectorSpec
from ..errors import RequestError
from ..link.messages import (
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Failed,
    Held,
    Message,
    Refused,
)
from ..log import RateLimit, fields
from .child import Child
from .handshake import Action, Link, State, View, decide
from .status import DeviceState
from .xenstore import XenStore, read_connectors, read_number, read_state

log = logging.getLogger(__name__)

_REOPEN_SECONDS = 0.3  # xen_drv_remove polls for InitWait for 1 s after Closing
_CONNECT_BURST = 5  # connects of one device within _CONNECT_WINDOW before it has to wait
_CONNECT_WINDOW = 10.0


class VDispl:
    """Drives one backend node. step() acts on what changed; never raises for what a DomU wrote.

    ``own`` is the number of the backend's own domain. ``quota`` returns what the domain may have,
    ``child`` its worker if it is ready, else None; ``stuck`` hears of one that doesn't answer. OSError
    of the constructor leaves nothing behind. All in the asyncio thread.
    """

    def __init__(
        self,
        store: XenStore,
        own: int,
        domid: int,
        number: int,
        name: str,
        quota: Callable[[], Quota],
        child: Callable[[], Child | None],
        again: Callable[[], None],
        stuck: Callable[[str], None],
    ) -> None:
        self.domid = domid
        self.number = number
        self.name = name
        self.path = f"/local/domain/{own}/backend/vdispl/{domid}/{number}"
        self.frontend = f"/local/domain/{domid}/device/vdispl/{number}"
        self.front_watch = f"{self.frontend}/state"
        self.link = Link.UNKNOWN
        self.back: int | None = None
        self.front: int | None = None
        self.reason = ""
        self.domain_gone = False
        self.forgotten = False
        self._store = store
        self._quota = quota
        self._child = child
        self._again = again
        self._stuck = stuck
        self._error = f"/local/domain/{own}/error/backend/vdispl/{domid}/{number}"
        self._specs: tuple[ConnectorSpec, ...] = ()
        self._deadline: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._quiet = RateLimit(40)
        self._failed = ""
        self._failed_front: int | None = None
        self._connects: list[float] = []
        self._reopen: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._write("versions", wire.VERSIONS)
        self._store.watch(self.front_watch)

    # -- what is known

    def _state(self) -> int | None:
        return read_state(self._store, f"{self.path}/state")

    def _refusal(self) -> str:
        """Why this device may not connect now; empty if it may."""
        expected, actual = self.frontend, self._store.read(f"{self.path}/frontend")
        if actual is not None and actual != expected:
            return f"{self.path}/frontend={actual!r}: must be {expected}"
        try:
            if read_number(self._store, f"{self.frontend}/be-alloc", 0, 1):
                return (
                    f"{self.frontend}/be-alloc=1: the backend never allocates for a DomU (XSA-363);"
                    " set be-alloc=0 in the domain's vdispl"
                )
        except RequestError as error:
            return str(error)
        return self._failed

    def _view(self) -> View:
        self.back = self._state()
        self.front = read_state(self._store, self.front_watch)
        if self.front != self._failed_front:
            self._failed = ""  # the frontend moved on: another try is its right
        online = self._store.read(f"{self.path}/online") != "0" and not self.domain_gone
        reason = self._refusal() if self.back is not None and online else ""
        if reason and reason != self.reason:
            self._log(logging.ERROR, "device refused", reason=reason)
            self._say_error(reason)
        self.reason = reason
        return View(self.back, self.front, online, bool(reason), self.link)

    def _log(self, level: int, text: str, **values: object) -> None:
        """What a DomU can cause is logged within limits: Dom0's journal isn't its."""
        if self._quiet.allow(self._loop.time()):
            who = fields(domain=self.name, domid=self.domid, device=self.number, **values)
            log.log(level, text, extra=who)

    # -- steps

    def step(self) -> None:
        """Do all that is to be done now."""
        for _ in range(8):  # a device settles in four; the rest is a guard against a loop
            action = decide(self._view())
            if action is Action.NOTHING or not self._act(action):
                return
        self._log(logging.ERROR, "handshake does not settle", back=self.back, front=self.front)

    def _act(self, action: Action) -> bool:
        """True if the next step can be taken at once."""
        if isinstance(action.value, State):
            self._write("state", str(int(action.value)))
            name = action.value.name.lower()
            self._log(logging.INFO, "backend state", state=name, frontend=self.front)
            return True
        if action is Action.CONNECT:
            return self._connect()
        if action is Action.RELEASE:
            self.release()
        elif action is Action.REOPEN_LATER and self._reopen is None:
            self._reopen = self._loop.call_later(_REOPEN_SECONDS, self._reopen_now)
        elif action is Action.FORGET:
            self.forget()
        return False

    def _reopen_now(self) -> None:
        self._reopen = None
        with contextlib.suppress(OSError):  # the step that follows tries again, and reports it
            view = self._view()
            if view.link is Link.DOWN and view.online and view.front == State.CLOSING:
                self._write("state", str(int(State.INIT_WAIT)))
        self._again()

    def _retry_now(self) -> None:
        self._retry = None
        self._again()

    def _connect(self) -> bool:
        child = self._child()
        if child is None:
            return False  # the worker's "ready" calls again
        now = self._loop.time()
        self._connects = [at for at in self._connects if now - at < _CONNECT_WINDOW]
        if len(self._connects) >= _CONNECT_BURST:
            if self._retry is None:  # one, however often the frontend asks meanwhile
                # not too soon by a rounding: it would be asked again and again until then
                rest = max(0.01, self._connects[0] + _CONNECT_WINDOW - now)
                self._retry = self._loop.call_later(rest, self._retry_now)
            self._log(logging.WARNING, "frontend connects too often: it waits")
            return False
        self._connects.append(now)
        try:
            specs = read_connectors(self._store, self.frontend, self._quota())
        except RequestError as error:
            self.fail(str(error))
            return True
        self._specs = tuple(specs)
        self._ask(child, Link.CONNECTING, Connect(self.number, self._specs))
        return False

    def _ask(self, child: Child, link: Link, message: Message) -> None:
        """What the worker has to answer in time."""
        self._answered(link)
        child.send(message)
        seconds = limits.CONNECT if link is Link.CONNECTING else limits.RELEASE
        self._deadline = self._loop.call_later(seconds, self._silent, seconds)

    def _answered(self, link: Link) -> None:
        self.link = link
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _silent(self, seconds: float) -> None:
        self._deadline = None
        self._stuck(f"vdispl {self.number}: {self.link.value} for {seconds:.0f} s")

    def release(self) -> None:
        """Take back what the worker holds; its answer brings the link down."""
        if self.back not in (None, State.CLOSING):
            self._write("state", str(int(State.CLOSING)))
        child = self._child()
        if child is None:
            return  # its Hello calls again
        self._ask(child, Link.RELEASING, Disconnect(self.number))

    def fail(self, reason: str) -> None:
        """Refuse the device until the frontend changes its state."""
        self._failed = reason
        self._failed_front = self.front

    def forget(self) -> None:
        """The toolstack has removed the device. OSError: it can be called again."""
        self.end()
        if not self.forgotten:
            self._store.remove(self._error)
            self._store.unwatch(self.front_watch)
            self.forgotten = True

    def end(self) -> None:
        """No timer of it calls any more; XenStore stays as it is."""
        for timer in (self._reopen, self._retry, self._deadline):
            if timer:
                timer.cancel()

    # -- what the worker says

    def on_hello(self, held: Held | None) -> None:
        """A worker is there, and this is what it has of this device.

        It may be the one that was there before, another that goes on in its place, or a new one.
        """
        if held is None:
            self._answered(Link.DOWN)
        elif self.link is Link.UNKNOWN or self.link is Link.CONNECTING or self.link is Link.UP:
            self._answered(Link.UP)
            if not self._is_published(held.connectors):
                self._log(logging.WARNING, "frontend connected anew meanwhile")
                self.release()
        else:
            self._answered(Link.UP)
            self.release()

    def _is_published(self, held: tuple[ConnectorSpec, ...]) -> bool:
        """Whether the frontend still has what the worker serves."""
        try:
            return tuple(read_connectors(self._store, self.frontend, self._quota())) == held
        except RequestError:
            return False

    def on_worker(self, message: Message) -> None:
        """An answer, or a failure, of this device."""
        if isinstance(message, Connected) and self.link is Link.CONNECTING:
            self._answered(Link.UP)
            self._log(logging.INFO, "frontend connected")
        elif isinstance(message, Refused) and self.link is Link.CONNECTING:
            self._answered(Link.DOWN)
            self.fail(message.reason)
        elif isinstance(message, Failed) and self.link in (Link.CONNECTING, Link.UP):
            self.fail(message.reason)
        elif isinstance(message, Disconnected) and self.link is Link.RELEASING:
            self._answered(Link.DOWN)
            self._log(logging.INFO, "frontend released", complete=message.released)

    def on_lost(self) -> None:
        """The worker is gone or silent: systemd starts another, whose Hello says what it has.

        Nothing is said in XenStore: the frontend need not notice.
        """
        self._answered(self.link)

    # -- XenStore

    def _write(self, node: str, value: str) -> None:
        """Write below the backend's node, unless the toolstack has removed it."""
        self._store.write_where(f"{self.path}/state", f"{self.path}/{node}", value)

    def _say_error(self, reason: str) -> None:
        """Where xenbus_dev_error() of Linux puts a backend's errors."""
        self._store.write(f"{self._error}/error", f"{errno.EINVAL} {reason}"[:1024])

    def status(self) -> DeviceState:
        return DeviceState(self.number, self.back, self.front, self.link.value, self.reason)
