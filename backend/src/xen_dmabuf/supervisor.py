# SPDX-License-Identifier: MIT
"""The supervisor: the one process that reads and writes XenStore.

Watches /local/domain/0/backend/vdispl, keeps one worker process for each DomU that has a device
there, and takes each device through its handshake. It maps nothing and draws nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .child import Child
from .config import Config
from .control import ControlServer
from .errors import UserError
from .log import fields
from .processes import ForkServer
from .vdispl import BACKENDS, VDispl
from .xenstore import XenStore

log = logging.getLogger(__name__)

_RELEASE_DOMAIN = "@releaseDomain"
_FIRST_DELAY, _LAST_DELAY = 0.5, 30.0
_LIVED_LONG = 60.0
_STATUS_SECONDS = 5.0
_BACKEND_PATH = re.compile(re.escape(BACKENDS) + r"/([0-9]{1,5})/([0-9]{1,5})(?:/.*)?", re.ASCII)
_FRONT_PATH = re.compile(r"/local/domain/([0-9]{1,5})/device/vdispl/([0-9]{1,5})/state", re.ASCII)


def notify_systemd(state: str) -> None:
    """sd_notify(3): one datagram to $NOTIFY_SOCKET, if systemd set one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        client.sendto(state.encode(), address)


@dataclass
class Domain:
    """A DomU with at least one vdispl device."""

    domid: int
    name: str
    devices: dict[int, VDispl] = field(default_factory=dict)
    child: Child | None = None
    ready: bool = False
    started: float = 0.0
    delay: float = _FIRST_DELAY
    status: asyncio.Future[dict | None] | None = None
    silent: bool = False

    def summary(self) -> dict:
        """What `xen-dmabuf-backend status` says of it without asking its worker."""
        state = "not answering" if self.silent else "ready"
        return {
            "domid": self.domid,
            "name": self.name,
            "pid": self.child.pid if self.child else 0,
            "worker": state if self.ready else "starting",
            "devices": [device.status() for device in self.devices.values()],
        }

    def ready_child(self) -> Child | None:
        return self.child if self.ready else None


class Supervisor:
    """Everything happens in the asyncio thread of run()."""

    def __init__(self, config: Config, store: XenStore, load: Callable[[], Config]) -> None:
        """``load`` reads the configuration again, for reload(); UserError says what is wrong."""
        self._config = config
        self._load = load
        self._store = store
        self._domains: dict[int, Domain] = {}
        self._forkserver = ForkServer(config)
        self._stopping = asyncio.Event()
        self._ended = False
        self._dirty: set[tuple[int, int]] = set()
        self._scheduled = False
        self._tasks: set[asyncio.Task] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then release every device and say Closed.

        SIGHUP: reload().
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        answers = {"status": self.status, "domains": self.domains}
        async with ControlServer(self._config.control_socket, answers):
            loop.add_reader(self._store.fileno(), self.on_watch)
            self._store.watch(BACKENDS)
            self._store.watch(_RELEASE_DOMAIN)
            self.rescan()
            notify_systemd("READY=1")
            log.info("serving", extra=fields(path=BACKENDS))
            self._spawn(self._forkserver.start())
            await self._stopping.wait()
            notify_systemd("STOPPING=1")
            self._ended = True
            loop.remove_reader(self._store.fileno())
            await self._stop()

    async def _stop(self) -> None:
        for domain in self._domains.values():
            for device in domain.devices.values():
                device.stop()
        children = [domain.child for domain in self._domains.values() if domain.child]
        await asyncio.gather(self._forkserver.close(), *(child.stop() for child in children))
        for domain in self._domains.values():
            for device in domain.devices.values():
                device.stopped()

    def reload(self) -> None:
        """Read the configuration again; it holds for every worker that starts from now on.

        Running workers keep theirs: no picture is interrupted. A configuration with an error is
        logged and changes nothing. Tells systemd as Type=notify-reload wants it (sd_notify(3)).
        """
        notify_systemd(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._load()
        except UserError as error:
            log.error("configuration not changed", extra=fields(reason=error))
        else:
            if config.control_socket != self._config.control_socket:
                log.warning("control_socket stays as it is until the service is restarted")
            self._config = self._forkserver.config = config
            log.info("configuration read again: it holds for workers that start from now on")
        finally:
            notify_systemd("READY=1")

    # -- watches

    def on_watch(self) -> None:
        for path in self._store.fired():
            if path in (BACKENDS, _RELEASE_DOMAIN):
                self.rescan()
            elif match := _BACKEND_PATH.fullmatch(path) or _FRONT_PATH.fullmatch(path):
                self.touch(int(match[1]), int(match[2]))
            elif path.startswith(BACKENDS):
                self.rescan()

    def rescan(self) -> None:
        """Look at every device that is there or that was."""
        for domid in self._store.list(BACKENDS):
            for number in self._store.list(f"{BACKENDS}/{domid}"):
                if domid.isascii() and domid.isdigit() and number.isascii() and number.isdigit():
                    self.touch(int(domid), int(number))
        for domain in self._domains.values():
            gone = not self._store.domain_exists(domain.domid)
            for number, device in domain.devices.items():
                device.domain_gone = gone
                self.touch(domain.domid, number)

    def touch(self, domid: int, number: int) -> None:
        """Step this device soon; many watches of one moment are one step."""
        self._dirty.add((domid, number))
        if not self._scheduled and not self._ended:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._step_dirty)

    def _step_dirty(self) -> None:
        self._scheduled = False
        dirty, self._dirty = self._dirty, set()
        for domid, number in sorted(dirty):
            if self._ended:
                return
            try:
                self._step(domid, number)
            except OSError as error:
                log.error(
                    "XenStore", extra=fields(domid=domid, device=number, reason=error)
                )

    def _step(self, domid: int, number: int) -> None:
        domain = self._domains.get(domid)
        device = domain.devices.get(number) if domain else None
        if device is None:
            if self._store.read(f"{BACKENDS}/{domid}/{number}/state") is None:
                return
            domain = self._domain(domid)
            device = domain.devices[number] = VDispl(
                self._store,
                domid,
                number,
                domain.name,
                lambda: self._config.quota_for(domain.name),
                domain.ready_child,
                lambda: self.touch(domid, number),
            )
            log.info("device found", extra=fields(domain=domain.name, domid=domid, device=number))
        assert domain is not None
        device.step()
        if device.forgotten:
            del domain.devices[number]
            if not domain.devices:
                self._retire(domain)

    def _domain(self, domid: int) -> Domain:
        if domid not in self._domains:
            name = self._store.read(f"/local/domain/{domid}/name") or f"domain-{domid}"
            self._domains[domid] = Domain(domid, name[:64])
            self._spawn(self._start_child(self._domains[domid]))
        return self._domains[domid]

    def _retire(self, domain: Domain) -> None:
        """The last device is gone: the worker has nothing left to do."""
        del self._domains[domain.domid]
        log.info("domain has no device left", extra=fields(domain=domain.name, domid=domain.domid))
        if domain.child:
            self._spawn(domain.child.stop())

    # -- workers

    def _spawn(self, coroutine) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            log.error("internal error", exc_info=task.exception())

    async def _start_child(self, domain: Domain) -> None:
        child = Child(
            domain.domid,
            lambda message: self._on_message(domain, child, message),
            lambda status: self._on_exit(domain, child, status),
        )
        domain.child = child
        domain.started = asyncio.get_running_loop().time()
        try:
            await child.start(domain.name, self._config, self._forkserver)
        except (OSError, UserError) as error:
            log.error("worker can't be started", extra=fields(domain=domain.name, reason=error))
            self._restart_later(domain)
            return
        if self._domains.get(domain.domid) is not domain:
            await child.stop()  # the domain went while its worker was started: nobody else ends it
            return
        log.info(
            "worker started", extra=fields(domain=domain.name, domid=domain.domid, pid=child.pid)
        )

    def _on_message(self, domain: Domain, child: Child, message: dict) -> None:
        """ValueError ends the worker."""
        if domain.child is not child:
            return
        event = message["event"]
        if event == "ready":
            domain.ready = True
        elif event == "status":
            if domain.status is None or domain.status.done():
                raise ValueError("a status that nobody asked for")
            domain.silent = False
            domain.status.set_result(message["status"])
            return
        else:
            device = domain.devices.get(message["dev"])
            if device:
                device.on_worker(event, message)
        for number in domain.devices:
            self.touch(domain.domid, number)

    def _on_exit(self, domain: Domain, child: Child, status: int) -> None:
        if domain.child is not child or self._ended:
            return
        if self._domains.get(domain.domid) is not domain:
            return  # retired: it was asked to end
        log.error(
            "worker ended",
            extra=fields(domain=domain.name, domid=domain.domid, pid=child.pid, status=status),
        )
        domain.ready = domain.silent = False
        if domain.status and not domain.status.done():
            domain.status.set_result(None)
        for number, device in domain.devices.items():
            device.worker_gone()
            self.touch(domain.domid, number)
        self._restart_later(domain)

    def _restart_later(self, domain: Domain) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - domain.started > _LIVED_LONG:
            domain.delay = _FIRST_DELAY
        loop.call_later(domain.delay, self._restart, domain)
        domain.delay = min(domain.delay * 2, _LAST_DELAY)

    def _restart(self, domain: Domain) -> None:
        if self._domains.get(domain.domid) is domain and not self._ended:
            self._spawn(self._start_child(domain))

    # -- status

    async def status(self) -> dict:
        """What `xen-dmabuf-backend status` prints."""
        domains = await asyncio.gather(
            *(self._domain_status(domain) for domain in list(self._domains.values()))
        )
        copied = sum(domain.get("pixel_bytes_copied", 0) for domain in domains)
        return {
            "domains": list(domains),
            "totals": {"domains": len(domains), "pixel_bytes_copied": copied},
        }

    async def domains(self) -> dict:
        """The part of status() that the supervisor knows itself: no worker is waited for."""
        return {"domains": [domain.summary() for domain in self._domains.values()]}

    async def _domain_status(self, domain: Domain) -> dict:
        details = await self._worker_status(domain) or {}
        answer = details | domain.summary()
        devices = details.get("devices", {})
        answer["devices"] = [
            devices.get(str(device["device"]), {}) | device for device in answer["devices"]
        ]
        return answer

    async def _worker_status(self, domain: Domain) -> dict | None:
        """None if it doesn't answer; one that didn't is not waited for again until it does."""
        child = domain.ready_child()
        if child is None or domain.silent:
            return None
        if domain.status is None or domain.status.done():
            domain.status = asyncio.get_running_loop().create_future()
            child.send(op="status")
        try:
            return await asyncio.wait_for(asyncio.shield(domain.status), _STATUS_SECONDS)
        except TimeoutError:
            domain.silent = not domain.status.done()
            return None
