# SPDX-License-Identifier: MIT
"""One vdispl device as the supervisor sees it: its XenStore nodes and what its worker holds."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from dataclasses import asdict

from . import displif
from .child import Child
from .config import Quota
from .errors import RequestError
from .handshake import Action, Link, State, View, decide
from .log import RateLimit, fields
from .xenstore import XenStore, read_connectors, read_number, read_state

log = logging.getLogger(__name__)

BACKENDS = "/local/domain/0/backend/vdispl"
_REOPEN_SECONDS = 0.3  # xen_drv_remove polls for InitWait for 1 s after Closing
_CONNECT_BURST = 5  # connects of one device within _CONNECT_WINDOW before it has to wait
_CONNECT_WINDOW = 10.0


class VDispl:
    """Drives one backend node. step() acts on what changed; never raises for what a DomU wrote.

    ``quota`` returns what the domain may have now, ``child`` its worker if it is ready, else None.
    All in the asyncio thread.
    """

    def __init__(
        self,
        store: XenStore,
        domid: int,
        number: int,
        name: str,
        quota: Callable[[], Quota],
        child: Callable[[], Child | None],
        again: Callable[[], None],
    ) -> None:
        self.domid = domid
        self.number = number
        self.name = name
        self.path = f"{BACKENDS}/{domid}/{number}"
        self.frontend = f"/local/domain/{domid}/device/vdispl/{number}"
        self.front_watch = f"{self.frontend}/state"
        self.link = Link.DOWN
        self.back: int | None = None
        self.front: int | None = None
        self.reason = ""
        self.domain_gone = False
        self.forgotten = False
        self._store = store
        self._quota = quota
        self._child = child
        self._again = again
        self._loop = asyncio.get_running_loop()
        self._quiet = RateLimit(40)
        self._failed = ""
        self._failed_front: int | None = None
        self._connects: list[float] = []
        self._reopen: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._store.watch(self.front_watch)
        if self._state() is not None:
            self._write("versions", displif.VERSIONS)

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
                rest = self._connects[0] + _CONNECT_WINDOW - now
                self._retry = self._loop.call_later(rest, self._retry_now)
            self._log(logging.WARNING, "frontend connects too often: it waits")
            return False
        self._connects.append(now)
        try:
            specs = read_connectors(self._store, self.frontend, self._quota())
        except RequestError as error:
            self.fail(str(error))
            return True
        self.link = Link.CONNECTING
        child.send(op="connect", dev=self.number, connectors=[asdict(spec) for spec in specs])
        return False

    def release(self) -> None:
        """Take back what the worker holds; its answer brings the link down."""
        self.link = Link.RELEASING
        if self.back not in (None, State.CLOSING):
            self._write("state", str(int(State.CLOSING)))
        child = self._child()
        if child is None:
            self.link = Link.DOWN
            self._again()
        else:
            child.send(op="disconnect", dev=self.number)

    def fail(self, reason: str) -> None:
        """Refuse the device until the frontend changes its state."""
        self._failed = reason
        self._failed_front = self.front

    def forget(self) -> None:
        for timer in (self._reopen, self._retry):
            if timer:
                timer.cancel()
        if not self.forgotten:
            self.forgotten = True
            self._store.unwatch(self.front_watch)
            self._store.remove(f"/local/domain/0/error/backend/vdispl/{self.domid}/{self.number}")

    def stop(self) -> None:
        """The backend ends: tell the frontend before its buffers go."""
        if self._state() is not None and self.link is not Link.DOWN:
            self._write("state", str(int(State.CLOSING)))

    def stopped(self) -> None:
        """The worker has ended: the frontend may free its pages and wait for the next backend."""
        if self._state() not in (None, State.CLOSED):
            self._write("state", str(int(State.CLOSED)))

    # -- what the worker says

    def on_worker(self, event: str, message: dict) -> None:
        reason = message.get("reason", "")[:500]
        if event == "connected" and self.link is Link.CONNECTING:
            self.link = Link.UP
            self._log(logging.INFO, "frontend connected")
        elif event == "refused" and self.link is Link.CONNECTING:
            self.link = Link.DOWN
            self.fail(reason)
        elif event == "failed" and self.link in (Link.CONNECTING, Link.UP):
            self.fail(reason)
        elif event == "disconnected" and self.link is Link.RELEASING:
            self.link = Link.DOWN
            self._log(logging.INFO, "frontend released", complete=message["released"])

    def worker_gone(self) -> None:
        """The kernel has taken back what the worker held."""
        self.link = Link.DOWN

    # -- XenStore

    def _write(self, node: str, value: str) -> None:
        """Write below the backend's node, unless the toolstack has removed it."""
        try:
            if self._state() is not None:
                self._store.write(f"{self.path}/{node}", value)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def _say_error(self, reason: str) -> None:
        """Where xenbus_dev_error() of Linux puts a backend's errors."""
        path = f"/local/domain/0/error/backend/vdispl/{self.domid}/{self.number}/error"
        self._store.write(path, f"{errno.EINVAL} {reason}"[:1024])

    def status(self) -> dict:
        return {
            "device": self.number,
            "backend_state": self.back,
            "frontend_state": self.front,
            "link": self.link.value,
            "reason": self.reason,
        }
