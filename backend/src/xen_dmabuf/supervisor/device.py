# SPDX-License-Identifier: MIT
"""What the supervisor does for every device: its XenStore nodes, its handshake, what its worker holds."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable
from typing import Any, ClassVar

from .. import limits
from ..errors import RequestError
from ..link.messages import Message
from ..log import RateLimit, fields
from ..record import record
from .child import Child
from .handshake import Action, Link, State, View
from .status import DeviceState
from .xenstore import XenStore, read_state

log = logging.getLogger(__name__)

# xen_drv_remove polls for InitWait for 1 s after Closing: both and the release have to fit in
_CLOSE_SECONDS = 0.3  # a frontend that polls sees Closing meanwhile
_REOPEN_SECONDS = 0.2
_CONNECT_BURST = 5  # connects of one device within _CONNECT_WINDOW before it has to wait
_CONNECT_WINDOW = 10.0

_NEXT = {
    Action.CLOSE_LATER: (State.CLOSING, _CLOSE_SECONDS, State.CLOSED),
    Action.REOPEN_LATER: (State.CLOSED, _REOPEN_SECONDS, State.INIT_WAIT),
}


@record
class Ties:
    """Which device it is, and whom it talks to.

    ``own`` is the number of the backend's own domain, ``name`` the frontend's. ``child`` returns the
    domain's worker if it is ready, else None; ``again`` asks for a step(); ``stuck`` hears of a worker
    that doesn't answer.
    """

    own: int
    domid: int
    number: int
    name: str
    child: Callable[[], Child | None]
    again: Callable[[], None]
    stuck: Callable[[str], None]


class Device:
    """Drives one backend node. step() acts on what changed; never raises for what a DomU wrote.

    A kind of device says what its frontend publishes and how the states follow each other. OSError of the
    constructor leaves nothing behind. All in the asyncio thread.
    """

    BACKEND: ClassVar[str]
    """The folder below the backend's /local/domain/<n>/backend."""
    FRONTEND: ClassVar[str]
    """The folder below the frontend's /local/domain/<n>/device."""

    def __init__(self, store: XenStore, ties: Ties) -> None:
        self.domid = ties.domid
        self.number = ties.number
        self.name = ties.name
        self.path = f"/local/domain/{ties.own}/backend/{self.BACKEND}/{ties.domid}/{ties.number}"
        self.frontend = f"/local/domain/{ties.domid}/device/{self.FRONTEND}/{ties.number}"
        self.front_watch = f"{self.frontend}/state"
        self.link = Link.UNKNOWN
        self.back: int | None = None
        self.front: int | None = None
        self.reason = ""
        self.warning = ""
        self.domain_gone = False
        self.forgotten = False
        self._store = store
        self._child = ties.child
        self._again = ties.again
        self._stuck = ties.stuck
        self._error = f"/local/domain/{ties.own}/error/backend/{self.BACKEND}/{ties.domid}/{ties.number}"
        self._published: Any = None
        self._deadline: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._quiet = RateLimit(40)
        self._failed = ""
        self._failed_front: int | None = None
        self._connects: list[float] = []
        self._reopen: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._store.watch(self.front_watch)

    # -- what a kind of device is

    def _decide(self, view: View) -> Action:
        """The next single step."""
        raise NotImplementedError

    def _unfit(self) -> str:
        """Why this device may not connect, by its own configuration; empty if it may. RequestError."""
        raise NotImplementedError

    def _lacking(self) -> str:
        """What a device that is not refused waits for, if it is not the frontend; empty: nothing."""
        return ""

    def _read(self) -> Any:
        """What the frontend publishes, None if that isn't all there yet. RequestError."""
        raise NotImplementedError

    def _connect_message(self, published: Any) -> Message:
        raise NotImplementedError

    def _disconnect_message(self) -> Message:
        raise NotImplementedError

    def _moved_on(self) -> bool:
        """Whether the frontend did something since fail(), or begins."""
        return self.front != self._failed_front or self.front == State.INITIALISING

    def _made_anew(self) -> None:
        """The toolstack has just made the device, perhaps in the place of one that was not seen to go."""
        self._failed = ""

    def _offer(self) -> None:
        """Write what a frontend looks for when it sees InitWait. OSError."""

    def _renew(self) -> None:
        """The frontend published something else than what the worker holds."""
        raise NotImplementedError

    # -- what is known

    def _state(self) -> int | None:
        return read_state(self._store, f"{self.path}/state")

    def _refusal(self) -> str:
        """Why this device may not connect now; empty if it may."""
        expected, actual = self.frontend, self._store.read(f"{self.path}/frontend")
        if actual is not None and actual != expected:
            return f"{self.path}/frontend={actual!r}: must be {expected}"
        try:
            return self._unfit() or self._failed
        except RequestError as error:
            return str(error)

    def _view(self) -> View:
        self.back = self._state()
        self.front = read_state(self._store, self.front_watch)
        if self.back == State.INITIALISING:
            self._made_anew()
        if self._failed and self.link not in (Link.CONNECTING, Link.UP) and self._moved_on():
            self._failed = ""  # another try is its right, once the worker has given back what it held
        online = self._store.read(f"{self.path}/online") != "0" and not self.domain_gone
        reason = self._refusal() if self.back is not None and online else ""
        lacking = "" if reason or not online else self._lacking()
        self._give_reason(reason or lacking, "device refused" if reason else "device waits")
        return View(self.back, self.front, online, bool(reason), self.link)

    def _give_reason(self, reason: str, what: str) -> None:
        """Say it once, in the log and where the toolstack looks."""
        if reason and reason != self.reason:
            self._log(logging.ERROR, what, reason=reason)
            self._say_error(reason)
        self.reason = reason

    def _warn(self, warning: str) -> None:
        """Say what isn't served although the device is."""
        if warning and warning != self.warning:
            self._log(logging.WARNING, "not all is served", reason=warning)
        self.warning = warning

    def _log(self, level: int, text: str, **values: object) -> None:
        """What a DomU can cause is logged within limits: Dom0's journal isn't its."""
        if self._quiet.allow(self._loop.time()):
            who = fields(domain=self.name, domid=self.domid, device=self.number, **values)
            log.log(level, text, extra=who)

    # -- steps

    def step(self) -> None:
        """Do all that is to be done now."""
        for _ in range(8):  # a device settles in four; the rest is a guard against a loop
            action = self._decide(self._view())
            if action is Action.NOTHING or not self._act(action):
                return
        self._log(logging.ERROR, "handshake does not settle", back=self.back, front=self.front)

    def _act(self, action: Action) -> bool:
        """True if the next step can be taken at once."""
        if isinstance(action.value, State):
            if self._say(action.value):
                name = action.value.name.lower()
                self._log(logging.INFO, "backend state", state=name, frontend=self.front)
            return True
        if action is Action.CONNECT:
            return self._connect()
        if action is Action.RELEASE:
            self.release()
        elif action is Action.RENEW:
            self._renew()
        elif action in _NEXT and self._reopen is None:
            back, seconds, state = _NEXT[action]
            self._reopen = self._loop.call_later(seconds, self._move_on, back, state)
        elif action is Action.FORGET:
            self.forget()
        return False

    def _move_on(self, back: State, state: State) -> None:
        """Say a state to a frontend that is closing, unless something else has happened since."""
        self._reopen = None
        with contextlib.suppress(OSError):  # the step that follows tries again, and reports it
            view = self._view()
            if view.link is Link.DOWN and view.online and view.front == State.CLOSING and view.back == back:
                self._say(state)
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
            published = self._read()
        except RequestError as error:
            self.fail(str(error))
            return True
        if published is None:
            self._connects.pop()
            return False  # its next state calls again
        self._published = published
        self._ask(child, Link.CONNECTING, self._connect_message(published))
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
        self._stuck(f"{self.BACKEND} {self.number}: {self.link.value} for {seconds:.0f} s")

    def release(self) -> None:
        """Take back what the worker holds; its answer brings the link down."""
        if self.back not in (None, State.CLOSING):
            self._say(State.CLOSING)
        self.ask_back()

    def ask_back(self) -> None:
        """release() without a word to the frontend."""
        child = self._child()
        if child is None:
            return  # its Hello calls again
        self._ask(child, Link.RELEASING, self._disconnect_message())

    def fail(self, reason: str) -> None:
        """Refuse the device until the frontend changes its state."""
        self._failed = reason
        self._failed_front = self.front

    def forget(self) -> None:
        """The toolstack has removed the device. OSError: it can be called again, or go on where the toolstack has
        made another in its place: its timers run on."""
        if not self.forgotten:
            self._store.remove(self._error)
            self._store.unwatch(self.front_watch)
            self.forgotten = True
        self.end()

    def end(self) -> None:
        """No timer of it calls any more; XenStore stays as it is."""
        for timer in (self._reopen, self._retry, self._deadline):
            if timer:
                timer.cancel()
        self._reopen = self._retry = self._deadline = None

    # -- what the worker says

    def on_hello(self, held: Any) -> None:
        """A worker is there, and this is what it has of this device, None: nothing.

        It may be the one that was there before, another that goes on in its place, or a new one.
        """
        if held is None:
            self._answered(Link.DOWN)
        elif self.link is Link.UNKNOWN or self.link is Link.CONNECTING or self.link is Link.UP:
            self._answered(Link.UP)
            self._published = held
            if not self._is_published(held):
                self._log(logging.WARNING, "frontend connected anew meanwhile")
                self._renew()
        else:
            self._answered(Link.UP)
            self._renew()

    def _is_published(self, held: Any) -> bool:
        """Whether the frontend still has what the worker serves."""
        try:
            return bool(self._read() == held)
        except RequestError:
            return False

    def on_worker(self, message: Message) -> None:
        """An answer, or a failure, of this device."""
        raise NotImplementedError

    def _connected(self) -> None:
        if self.link is Link.CONNECTING:
            self._answered(Link.UP)
            self._log(logging.INFO, "frontend connected")

    def _refused(self, reason: str) -> None:
        if self.link is Link.CONNECTING:
            self._answered(Link.DOWN)
            self.fail(reason)

    def _disconnected(self, **values: object) -> None:
        if self.link is Link.RELEASING:
            self._answered(Link.DOWN)
            self._log(logging.INFO, "frontend released", **values)

    def on_lost(self) -> None:
        """The worker is gone or silent: systemd starts another, whose Hello says what it has.

        Nothing is said in XenStore: the frontend need not notice.
        """
        self._answered(self.link)

    # -- XenStore

    def _say(self, state: State) -> bool:
        """Go to a state, unless ours isn't the one any more that this was decided for: the toolstack may
        have removed the device, or made another in its place. Whether it was."""
        path = f"{self.path}/state"
        if state is State.INIT_WAIT:
            self._offer()
        return self._store.write_where(path, path, str(int(state)), self.back)

    def _say_error(self, reason: str) -> None:
        """Where xenbus_dev_error() of Linux puts a backend's errors."""
        self._store.write(f"{self._error}/error", f"{errno.EINVAL} {reason}"[:1024])

    def status(self) -> DeviceState:
        return DeviceState(self.number, self.back, self.front, self.link.value, self.reason, self.warning)
