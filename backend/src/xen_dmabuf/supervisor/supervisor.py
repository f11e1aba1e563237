# SPDX-License-Identifier: MIT
"""The supervisor: the one process that reads and writes XenStore.

Watches the backend's folders for vdispl and vinput, keeps one worker unit for each DomU that has a
vdispl device, and takes each device through its handshake. It maps nothing and draws nothing. When it
ends, workers and XenStore stay as they are, and the next supervisor finds them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import signal
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import asdict
from typing import Any

from .. import limits
from ..codec import CodecError, encode
from ..config import Config
from ..errors import UserError
from ..link.messages import (
    AskStatus,
    Disconnect,
    DisconnectInput,
    Hello,
    IdleShown,
    InputConnected,
    InputDisconnected,
    InputRefused,
    Message,
    Ready,
    Rename,
    Report,
    Start,
    WorkerStatus,
)
from ..log import RateLimit, fields
from ..notify import Notifier
from .child import Child
from .control import ControlServer
from .device import Device, Ties
from .domain import Domain
from .events import Events
from .idle import IdleScreens
from .lock import Instance
from .status import SCHEMA, Event, Totals
from .strangers import Strangers
from .units import IDLE, Units, Which
from .vdispl import VDispl
from .vkbd import VKbd
from .xenstore import XenStore

log = logging.getLogger(__name__)

_RELEASE_DOMAIN = "@releaseDomain"
_RETRY = 1.0
_KINDS: tuple[type[Device], ...] = (VDispl, VKbd)
"""In the order in which they are looked at: a vkb device belongs to the worker that a vdispl device has."""
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_FRONT_PATH = re.compile(
    rf"/local/domain/(?P<domid>[0-9]{{1,5}})/device/(?P<kind>{'|'.join(kind.FRONTEND for kind in _KINDS)})"
    r"/(?P<number>[0-9]{1,5})/state",
    re.ASCII,
)
_Key = tuple[int, int, int]
"""Place of the kind in _KINDS, domain, number."""
_OF_INPUTS = (InputConnected, InputRefused, InputDisconnected)


def _place(folder: str) -> int:
    """Of the kind whose backend's or frontend's folder is called so."""
    return next(place for place, kind in enumerate(_KINDS) if folder in (kind.BACKEND, kind.FRONTEND))


_NAME_PATH = re.compile(r"/local/domain/([0-9]{1,5})/name", re.ASCII)


class Supervisor:
    """Everything happens in the asyncio thread of run()."""

    def __init__(self, config: Config, store: XenStore, load: Callable[[], Config], units: Units) -> None:
        """``load`` reads the configuration again, for reload(); UserError says what is wrong."""
        self._config = config
        self._load = load
        self._store = store
        self._units = units
        self._own = store.own_domid()
        top = f"/local/domain/{self._own}/backend"
        self.folders = tuple(f"{top}/{kind.BACKEND}" for kind in _KINDS)
        self._back_path = re.compile(
            rf"{top}/(?P<kind>{'|'.join(kind.BACKEND for kind in _KINDS)})"
            r"/(?P<domid>[0-9]{1,5})/(?P<number>[0-9]{1,5})(?:/.*)?",
            re.ASCII,
        )
        self._domains: dict[int, Domain] = {}
        self._stopping = asyncio.Event()
        self._failure = ""
        self._ended = False
        self._dirty: set[_Key] = set()
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._events = Events()
        self._notifier = Notifier()
        self._starving = RateLimit(1, 60.0)
        self._strangers = Strangers(units, lambda: store.domain_exists(self._own), self._is_known)
        self._idle = IdleScreens(lambda *callbacks: Child(IDLE, units, *callbacks), self._spawn)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP: reload()."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.set_exception_handler(self._on_loop_error)
        answers = {"status": self.status, "domains": self.domains}
        with Instance(self._config.control_socket):
            streams = {"watch": self.watch}
            async with ControlServer(self._config.control_socket, answers, streams):
                loop.add_reader(self._store.fileno(), self.on_watch)
                for folder in self.folders:
                    self._store.watch(folder)
                self._store.watch(_RELEASE_DOMAIN)
                self.rescan()
                self._notifier.say("READY=1")
                self._notifier.feed()
                log.info("serving", extra=fields(path=", ".join(self.folders)))
                self._spawn(self._forgive())
                self._spawn(self._strangers.end())
                await self._stopping.wait()
                self._notifier.say("STOPPING=1")
                loop.remove_reader(self._store.fileno())
                self.leave()
                if self._failure:
                    raise UserError(self._failure)

    def leave(self) -> None:
        """Let everything be as it is: workers go on, and no frontend hears of it."""
        self._ended = True
        self._strangers.leave()
        self._idle.leave()
        for domain in self._domains.values():
            domain.child.leave()
            for device in domain.all_devices():
                device.end()
        self._notifier.close()

    def reload(self) -> None:
        """Read the configuration again; it holds for every worker that starts from now on.

        Running workers keep theirs: no picture is interrupted. A configuration with an error is
        logged and changes nothing. Tells systemd as Type=notify-reload wants it (sd_notify(3)).
        """
        self._notifier.say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._load()
        except (UserError, OSError) as error:
            log.error("configuration not changed", extra=fields(reason=error))
        else:
            if config.control_socket != self._config.control_socket:
                log.warning("control_socket stays as it is until the service is restarted")
            self._config = config
            self._look_for_absent()
            log.info("configuration read again: it holds for workers that start from now on")
        finally:
            self._notifier.say("READY=1")

    async def _forgive(self) -> None:
        """This start was a good one: the next is as quick as the first."""
        if not self._notifier.heard:
            return
        try:
            await self._units.forgive()
        except OSError as error:
            log.warning("the next restart may be late", extra=fields(reason=error))

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio tries accept() again by itself, each second, and reports it up to a hundred times."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _NO_DESCRIPTOR:
            loop.default_exception_handler(context)
        elif self._starving.allow(loop.time()):
            log.error("no descriptor left: who asks for the status has to wait", extra=fields(reason=error))

    def _is_known(self, which: Which) -> bool:
        """Whether its worker is to be there."""
        if isinstance(which, str):
            return self._idle.runs
        return which in self._domains and self._domains[which].begun

    # -- watches

    def on_watch(self) -> None:
        """XenStore has something to say; without its connection there is nothing left to do here."""
        try:
            paths = self._store.fired()
        except OSError as error:
            self._fail(f"XenStore's connection is lost: {error}")
            return
        for path in paths:
            if match := _NAME_PATH.fullmatch(path):
                self._renamed(int(match[1]))
            elif match := self._back_path.fullmatch(path) or _FRONT_PATH.fullmatch(path):
                self.touch(_place(match["kind"]), int(match["domid"]), int(match["number"]))
            else:
                self._rescan_surely()

    def _rescan_surely(self) -> None:
        """rescan(), again and again until XenStore answers: nobody says twice that a domain went."""
        if self._ended:
            return
        try:
            self.rescan()
        except OSError as error:
            log.error("devices can't be looked for", extra=fields(reason=error))
            asyncio.get_running_loop().call_later(_RETRY, self._rescan_surely)

    def _fail(self, reason: str) -> None:
        """End with an error: systemd starts another supervisor, and workers go on meanwhile."""
        asyncio.get_running_loop().remove_reader(self._store.fileno())
        self._failure = reason
        self._stopping.set()

    def rescan(self) -> None:
        """Look at every device that is there or that was."""
        for place, folder in enumerate(self.folders):
            for domid in self._store.list(folder):
                for name in self._store.list(f"{folder}/{domid}"):
                    if domid.isascii() and domid.isdigit() and name.isascii() and name.isdigit():
                        self.touch(place, int(domid), int(name))
        for domain in self._domains.values():
            gone = not self._store.domain_exists(domain.domid)
            for device in domain.all_devices():
                device.domain_gone = gone
            self._touch_all(domain)
        if not self._dirty:
            self._look_for_absent()

    def _look_for_absent(self) -> None:
        """Whose guest isn't there may have changed."""
        self._idle.update(self._config, self._domains.values())

    def touch(self, place: int, domid: int, number: int) -> None:
        """Step this device soon; many watches of one moment are one step."""
        self._dirty.add((place, domid, number))
        if not self._scheduled and not self._ended:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._step_dirty)

    def _touch_all(self, domain: Domain) -> None:
        for device in domain.all_devices():
            self.touch(_place(device.BACKEND), domain.domid, device.number)

    def _step_dirty(self) -> None:
        self._scheduled = False
        dirty, self._dirty = self._dirty, set()
        for place, domid, number in sorted(dirty):
            if self._ended:
                return
            try:
                self._step(_KINDS[place], domid, number)
            except Exception as error:  # of one device: all others have their step nevertheless
                bug = None if isinstance(error, OSError) else error
                log.error(
                    "step of a device failed",
                    exc_info=bug,
                    extra=fields(domid=domid, device=number, reason=error),
                )
                asyncio.get_running_loop().call_later(_RETRY, self.touch, place, domid, number)
        self._look_for_absent()

    def _step(self, kind: type[Device], domid: int, number: int) -> None:
        domain = self._domains.get(domid)
        device = domain.of_kind(kind).get(number) if domain else None
        if device is None:
            if self._store.read(f"{self.folders[_KINDS.index(kind)]}/{domid}/{number}/state") is None:
                if domain:
                    self._tidy(domain)  # it went before it could be begun with
                return
            domain = self._domain(domid)
            device = domain.of_kind(kind)[number] = self._device(domain, kind, number)
            log.info("device found", extra=fields(domain=domain.name, domid=domid, kind=kind.BACKEND, device=number))
            self._begin(domain)
        assert domain is not None
        device.step()
        self._publish_device(domain, device)
        if device.forgotten:
            del domain.of_kind(kind)[number]
            self._tidy(domain)

    def _publish(self, event: str, domain: Domain) -> None:
        self._events.publish(Event(event, domain.domid, domain.name))

    def _publish_device(self, domain: Domain, device: Device) -> None:
        """If it isn't what those who watch know."""
        state, key = device.status(), (device.BACKEND, device.number)
        before = domain.published.pop(key, None)
        event = "device" if isinstance(device, VDispl) else "input"
        if device.forgotten:
            event += "-gone"
        else:
            domain.published[key] = state
        if state != before or device.forgotten:
            self._events.publish(Event(event, domain.domid, domain.name, **asdict(state)))

    def _device(self, domain: Domain, kind: type[Device], number: int) -> Device:
        place = _KINDS.index(kind)
        ties = Ties(
            self._own,
            domain.domid,
            number,
            domain.name,
            domain.ready_child,
            lambda: self.touch(place, domain.domid, number),
            lambda reason: self._stuck(domain, reason),
        )
        device: Device
        if kind is VDispl:
            device = VDispl(self._store, ties, lambda: domain.config)
        else:
            device = VKbd(self._store, ties, lambda: not domain.devices)
        if domain.ready or (kind is VKbd and not domain.devices):
            device.on_hello(None)
        return device

    def _domain(self, domid: int) -> Domain:
        domain = self._domains.get(domid)
        if domain is None:
            name = self._name(domid)
            self._store.watch(f"/local/domain/{domid}/name")
            domain = self._domains[domid] = Domain(domid, name, self._config, self._child(domid))
            self._publish("domain", domain)
        return domain

    def _name(self, domid: int) -> str:
        name = self._store.read(f"/local/domain/{domid}/name") or f"domain-{domid}"
        return name[:64]

    def _renamed(self, domid: int) -> None:
        """`xl rename`, or nothing new."""
        domain = self._domains.get(domid)
        if domain is None or self._ended:
            return
        try:
            name = self._name(domid)
            if name == domain.name or not self._store.domain_exists(domid):
                return
        except OSError as error:
            log.error("domain's name can't be read", extra=fields(domain=domain.name, domid=domid, reason=error))
            asyncio.get_running_loop().call_later(_RETRY, self._renamed, domid)
            return
        log.info("domain renamed", extra=fields(domain=domain.name, domid=domid, name=name))
        domain.rename(name)
        if domain.ready:
            domain.child.send(Rename(name))
        self._publish("domain", domain)

    def _child(self, domid: int) -> Child:
        child = Child(
            domid,
            self._units,
            lambda message: self._on_message(domid, child, message),
            lambda: self._on_lost(domid, child),
        )
        return child

    def _begin(self, domain: Domain) -> None:
        """Its first vdispl device: now there is something to do for a worker."""
        if domain.devices and not domain.begun:
            domain.begun = True
            domain.child.begin()

    def _tidy(self, domain: Domain) -> None:
        """A device is gone: without one the domain is, too, and without a vdispl device its worker."""
        if domain.begun and not domain.devices:
            self._retire(domain)
        if not domain.devices and not domain.inputs:
            self._store.unwatch(f"/local/domain/{domain.domid}/name")  # OSError: the next step tries again
            del self._domains[domain.domid]
            log.info("domain has no device left", extra=fields(domain=domain.name, domid=domain.domid))
            self._publish("domain-gone", domain)

    def _retire(self, domain: Domain) -> None:
        """The last vdispl device is gone: the worker has nothing left to do."""
        self._spawn(domain.child.stop())
        domain.child = self._child(domain.domid)
        domain.begun = domain.ready = domain.silent = False
        for device in domain.inputs.values():
            device.on_hello(None)
        self._touch_all(domain)

    # -- workers

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            log.error("internal error", exc_info=task.exception())

    def _current(self, domid: int, child: Child) -> Domain | None:
        domain = self._domains.get(domid)
        return domain if domain and domain.child is child and not self._ended else None

    def _on_message(self, domid: int, child: Child, message: Message) -> None:
        """CodecError ends the worker."""
        domain = self._current(domid, child)
        if domain is None:
            return
        if isinstance(message, Hello):
            self._on_hello(domain, message)
        elif isinstance(message, Ready):
            self._on_ready(domain)
        elif isinstance(message, Report):
            if domain.status is None or domain.status.done():
                raise CodecError("a status that nobody asked for")
            domain.silent = False
            domain.status.set_result(message.status)
            return
        elif isinstance(message, IdleShown):
            raise CodecError("idle-shown from a guest's worker")
        else:
            kind = VKbd if isinstance(message, _OF_INPUTS) else VDispl
            device = domain.of_kind(kind).get(message.device)  # type: ignore[attr-defined]
            if device:
                device.on_worker(message)
        self._touch_all(domain)

    def _on_hello(self, domain: Domain, hello: Hello) -> None:
        if hello.domid < 0:
            domain.config = self._config
            domain.child.send(Start(domain.domid, domain.name, domain.config))
            return
        if hello.domid != domain.domid:
            raise CodecError(f"the worker of domain {domain.domid} says that it is {hello.domid}'s")
        domain.config, domain.ready, domain.silent = hello.config, True, False
        held = {entry.device: entry.connectors for entry in hello.devices}
        log.info(
            "worker found",
            extra=fields(domain=domain.name, domid=domain.domid, devices=sorted(held)),
        )
        self._publish("worker", domain)
        if hello.name not in ("", domain.name):
            domain.child.send(Rename(domain.name))
        for number in held.keys() - domain.devices.keys():
            if self._store.read(f"{self.folders[0]}/{domain.domid}/{number}/state") is None:
                domain.child.send(Disconnect(number))  # removed while there was no supervisor
        for number, device in domain.devices.items():
            device.on_hello(held.get(number))
        inputs = {entry.device: entry.spec for entry in hello.inputs}
        for number in inputs.keys() - domain.inputs.keys():
            if self._store.read(f"{self.folders[1]}/{domain.domid}/{number}/state") is None:
                domain.child.send(DisconnectInput(number))
        for number, listening in domain.inputs.items():
            listening.on_hello(inputs.get(number))

    def _on_ready(self, domain: Domain) -> None:
        """It has nothing yet."""
        domain.ready, domain.silent = True, False
        log.info(
            "worker started",
            extra=fields(domain=domain.name, domid=domain.domid, pid=domain.child.pid),
        )
        self._publish("worker", domain)
        for device in domain.all_devices():
            device.on_hello(None)

    def _on_lost(self, domid: int, child: Child) -> None:
        domain = self._current(domid, child)
        if domain is None:
            return
        log.error("worker gone", extra=fields(domain=domain.name, domid=domid))
        self._publish("worker-gone", domain)
        domain.ready = domain.silent = False
        if domain.status and not domain.status.done():
            domain.status.set_result(None)
        for device in domain.all_devices():
            device.on_lost()

    def _stuck(self, domain: Domain, reason: str) -> None:
        """A worker that doesn't do what it has to: nothing of it is trusted any more."""
        log.error(
            "worker ended: it does not answer",
            extra=fields(domain=domain.name, domid=domain.domid, reason=reason),
        )
        domain.ready = False
        for device in domain.all_devices():
            device.on_lost()
        self._spawn(self._begin_anew(domain))

    async def _begin_anew(self, domain: Domain) -> None:
        """End a worker and all that is kept of it; what it held is given back then."""
        child = domain.child
        await child.stop()
        if self._current(domain.domid, child) is None:
            return
        for device in domain.all_devices():
            device.on_hello(None)
        self._touch_all(domain)
        child.begin()

    # -- status

    async def status(self) -> dict[str, Any]:
        """What `xen-dmabuf-backend status` prints."""
        domains = await asyncio.gather(*(self._domain_status(domain) for domain in list(self._domains.values())))
        copied = sum(domain["pixel_bytes_copied"] for domain in domains)
        totals = asdict(Totals(len(domains), copied))
        idle = [asdict(state) for state in self._idle.status()]
        return {"schema": SCHEMA, "domains": list(domains), "idle": idle, "totals": totals}

    async def domains(self) -> dict[str, Any]:
        """The part of status() that the supervisor knows itself: no worker is waited for."""
        return {
            "schema": SCHEMA,
            "domains": [domain.summary() for domain in self._domains.values()],
        }

    async def watch(self) -> AsyncGenerator[dict[str, Any], None]:
        """What `xen-dmabuf-backend status --watch` prints: status(), then each event.

        An event that came while the status was gathered may say what that has already.
        """
        with self._events.watch() as queue:
            yield await self.status()
            while True:
                yield await queue.get()

    async def _domain_status(self, domain: Domain) -> dict[str, Any]:
        details = encode(await self._worker_status(domain) or WorkerStatus())
        summary = domain.summary()
        for name in ("devices", "inputs"):
            known = details[name]
            summary[name] = [known.get(str(device["device"]), {}) | device for device in summary[name]]
        return details | summary

    async def _worker_status(self, domain: Domain) -> WorkerStatus | None:
        """None if it doesn't answer; one that didn't is not waited for again until it does."""
        child = domain.ready_child()
        if child is None or domain.silent:
            return None
        if domain.status is None or domain.status.done():
            domain.status = asyncio.get_running_loop().create_future()
            child.send(AskStatus())
        try:
            async with asyncio.timeout(limits.STATUS):
                return await asyncio.shield(domain.status)
        except TimeoutError:
            domain.silent = not domain.status.done()
            return None
