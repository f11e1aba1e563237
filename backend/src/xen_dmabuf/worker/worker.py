# SPDX-License-Identifier: MIT
"""One DomU's worker: owns its files, its devices, its state and its Wayland connection.

Until it is started for a domain, or goes on from a stored state, it opens nothing. Asyncio thread
only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any

from .. import limits
from ..config import Config
from ..displif.spec import ConnectorSpec
from ..errors import RequestError, UserError
from ..kbdif.spec import InputSpec
from ..link.messages import (
    REASON,
    Connected,
    Disconnected,
    Failed,
    Hello,
    InputConnected,
    InputDisconnected,
    InputRefused,
    Message,
    Refused,
    WorkerStatus,
)
from ..linux.memory import fence
from ..log import fields
from ..pump import loop
from ..xen.evtchn import Evtchn
from ..xen.gntdev import Gntdev
from .backing import BackingFactory
from .device import Device
from .displaybuffers import stored_number
from .input import Input, Inputs
from .keeper import keep_compositor
from .ports import Ports
from .releases import Releases
from .scene import Scene
from .state import VERSION, StoredInput, StoredWorker, pack, read
from .statefile import MOST_ATTEMPTS, StateError, StateFile
from .store import EVTCHN, GRANTS, STATE, FdStore

log = logging.getLogger(__name__)

_LIVED_LONG = 10.0


class Worker:
    """``send`` takes the messages for the supervisor."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self.domid = -1
        self.scene = Scene("", Config())
        self.config = Config()
        self._send = send
        self._store = FdStore()
        self._state: StateFile | None = None
        self._restarts = 0
        self._devices: dict[int, Device] = {}
        self._releases = Releases()
        self._ports: Ports | None = None
        self._grants: Gntdev | None = None
        self._factory: BackingFactory | None = None
        self._chosen_blindly = False
        self._driver = ""
        self._compositor_there = asyncio.Event()
        self._restoring: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- beginning

    def start(self, domid: int, name: str, config: Config) -> None:
        """Open the devices for a domain; OSError or UserError says what is missing."""
        self._begin(domid, name, config)
        self._ports = Ports(Evtchn(domid))
        self._store.add(EVTCHN, self._ports.evtchn.fd)
        self._state = StateFile()
        self._store.add(STATE, self._state.fd)
        self.save()
        self.serve()

    def _begin(self, domid: int, name: str, config: Config) -> None:
        fence()  # fails now, with its sentence, if libatomic is missing
        self.domid, self.config = domid, config
        self.scene = Scene(name, config, Inputs(self._keyboard_at_once))
        self._grants = Gntdev(domid)

    def _keyboard_at_once(self, connector: str) -> bool:
        return self.config.connector_for(self.scene.domain, connector).keyboard == "always"

    def serve(self) -> None:
        """Answer the DomU, and look for the compositor."""
        assert self._grants is not None
        # from now on the rings are mapped by this file; the one before may go
        self._store.remove(GRANTS)
        self._store.add(GRANTS, self._grants.fd)
        for device in self._devices.values():
            device.start()
        self._spawn(keep_compositor(self.config.display.socket, self.scene.domain, self._found, self._lost))

    def take_over(self, domid: int, files: dict[str, int]) -> None:
        """Go on from the state of another process, of domain ``domid``.

        StateError says why it can't be; then all that was taken is closed, and the store emptied.
        """
        names = list(files)
        self._store.adopt(names)
        try:
            self._take_over(domid, files)
        except (StateError, OSError, UserError, RequestError) as error:
            self._discard(names, files)
            raise StateError(f"the stored state {error}") from error
        self._close(files)
        self.serve()

    def _take_over(self, domid: int, files: dict[str, int]) -> None:
        for name in (STATE, EVTCHN):
            if name not in files:
                raise StateError(f"lacks the file {name}")
        state = StateFile(files[STATE])
        del files[STATE]
        self._state = state
        state.attempts += 1
        if state.attempts > MOST_ATTEMPTS:
            raise StateError(f"was begun with {MOST_ATTEMPTS} times without success")
        stored = read(state.read(), domid)
        self._restarts = stored.restarts + 1
        self._begin(domid, stored.name, stored.config)
        self._ports = Ports(Evtchn(domid, files[EVTCHN]))
        del files[EVTCHN]
        for entry in stored.devices:
            device = self._devices[entry.device] = self._device(entry.device)
            device.adopt(entry, files)
        for listening in stored.inputs:
            self._adopt_input(listening)
        self.save()
        asyncio.get_running_loop().call_later(_LIVED_LONG, self._lived)

    def _adopt_input(self, stored: StoredInput) -> None:
        """What can't be gone on with is only input: the supervisor hears that it isn't there."""
        device = self._input(stored.device, stored.spec)
        try:
            device.adopt(stored)
        except OSError as error:
            log.error("input device lost", extra=fields(domain=self.scene.domain, device=stored.device, reason=error))
        else:
            self.scene.inputs.add(device)

    def _lived(self) -> None:
        """The state did no harm: the next process may try it as often."""
        if self._state:
            self._state.attempts = 0

    def _discard(self, names: list[str], files: dict[str, int]) -> None:
        """Begin with nothing: what Xen and the compositor still have, they lose now."""
        for name in {STATE, EVTCHN, GRANTS, *names}:
            self._store.remove(name)
        for device in self._devices.values():
            device.abandon()
        self.scene.inputs.close_all()
        self._close(files)
        if self._ports:
            self._ports.close()
        if self._state:
            self._state.close()
        if self._grants:
            self._grants.close()
        self.__init__(self._send)  # type: ignore[misc]

    def _close(self, files: dict[str, int]) -> None:
        """Of a buffer that isn't in the table any more, or the last process's."""
        for name, fd in files.items():
            os.close(fd)
            if stored_number(name) is not None:
                self._store.remove(name)
        files.clear()

    # -- what outlives this process

    def save(self) -> None:
        """Store the table now; what can't be stored ends with this process."""
        if self._state is None:
            return
        stored = StoredWorker(
            VERSION,
            self.domid,
            self.scene.domain,
            self._restarts,
            self.config,
            tuple(device.stored() for device in self._devices.values()),
            tuple(device.stored() for device in self.scene.inputs),
        )
        try:
            self._state.write(pack(stored))
        except OSError as error:
            log.error("state not stored", extra=fields(domain=self.scene.domain, reason=error))

    def _device(self, number: int) -> Device:
        assert self._grants and self._ports and self._state
        return Device(
            number,
            self._grants,
            self._ports,
            self.scene,
            self.config.quota_for(self.scene.domain),
            self._releases,
            self._store,
            self._state,
            self.factory,
            self.save,
            lambda reason: self._broken(number, reason),
        )

    def _input(self, number: int, spec: InputSpec) -> Input:
        assert self._grants and self._ports
        return Input(number, spec, self._grants, self._ports)

    # -- tasks

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            log.error("internal error", exc_info=task.exception(), extra=fields(domain=self.scene.domain))

    # -- the compositor

    def _found(self, compositor: Any, at_once: bool) -> None:
        """keep_compositor() has connected."""
        self.scene.compositor = compositor
        self._compositor_there.set()
        if self._chosen_blindly and not any(list(d.buffers) for d in self._devices.values()):
            self._drop_factory()  # the compositor may name another GPU
        for device in self._devices.values():
            device.compositor_found(at_once)
        self._restoring = self._spawn(self._restore())

    def _lost(self) -> None:
        """keep_compositor()'s connection has ended."""
        if self._restoring:
            self._restoring.cancel()
        self.scene.compositor = None
        for device in self._devices.values():
            device.compositor_lost()

    async def _restore(self) -> None:
        if self._devices and self._factory is None:
            await self.factory()  # it knows whether caches are to be written back
        for device in list(self._devices.values()):
            await device.restore()
        self._lived()

    # -- the GPU

    async def factory(self, by: float = limits.NO_DEADLINE) -> BackingFactory:
        """The buffer factory; waits a little for the compositor, which names its GPU."""
        if self._factory is None:
            with contextlib.suppress(TimeoutError):
                seconds = limits.left(limits.GPU_CHOICE, by, asyncio.get_running_loop().time())
                async with asyncio.timeout(seconds):
                    await self._compositor_there.wait()
            if self._factory is None:
                self._factory = self._make_factory()
        return self._factory

    def _make_factory(self) -> BackingFactory:
        from . import gpu
        from .caches import open_caches

        compositor = self.scene.compositor
        self._chosen_blindly = compositor is None
        path, why, drm_fd = "", "", -1
        try:
            drm_fd, card = gpu.open_card(
                self.config.gpu["default"].device, compositor.main_device if compositor else None
            )
            path, self._driver = card.path, card.driver
        except (OSError, UserError) as error:
            why = str(error)
        log.info(
            "GPU chosen",
            extra=fields(domain=self.scene.domain, card=path or "none", driver=self._driver, reason=why),
        )
        settings = self.config.gpu_for(self._driver)
        assert self._grants is not None
        caches = self.scene.caches = open_caches(self._grants, settings.caches, drm_fd, path)
        log.log(
            logging.WARNING if caches.missing else logging.INFO,
            "caches",
            extra=fields(domain=self.scene.domain, state=caches.state),
        )
        devices = gpu.device_numbers(path)

        def scans_out(code: int) -> bool | None:
            compositor = self.scene.compositor
            return compositor.feedback.scans_out(code, devices) if compositor else None

        return BackingFactory(self.domid, settings, drm_fd, path, why, scans_out)

    def _drop_factory(self) -> None:
        factory, self._factory = self._factory, None
        caches, self.scene.caches = self.scene.caches, None
        self._driver = ""
        if factory:
            factory.close()
        if caches:
            caches.close()

    # -- what the supervisor asks

    async def connect(self, number: int, specs: tuple[ConnectorSpec, ...]) -> None:
        await self._give_back(number)
        (await self.factory()).prepare()
        device = self._device(number)
        try:
            device.connect(specs)
        except (OSError, StateError) as error:
            await device.close()
            self._send(Refused(number, str(error)[:REASON]))
            return
        self._devices[number] = device
        self.save()
        self._send(Connected(number))

    def _broken(self, number: int, reason: str) -> None:
        log.error(
            "frontend unusable",
            extra=fields(domain=self.scene.domain, device=number, reason=reason),
        )
        self._send(Failed(number, reason[:REASON]))

    async def disconnect(self, number: int) -> None:
        self._send(Disconnected(number, await self._give_back(number)))

    async def _give_back(self, number: int) -> bool:
        device = self._devices.pop(number, None)
        if device is None:
            return True
        self.save()
        released = await device.close()
        if not released:
            log.warning(
                "the compositor still holds pages of the DomU",
                extra=fields(domain=self.scene.domain, device=number),
            )
        return released

    async def connect_input(self, number: int, spec: InputSpec) -> None:
        self.scene.inputs.close(number)
        device = self._input(number, spec)
        try:
            device.open()
        except OSError as error:
            self.save()
            self._send(InputRefused(number, str(error)[:REASON]))
            return
        self.scene.inputs.add(device)
        self.save()
        self._send(InputConnected(number))

    async def disconnect_input(self, number: int) -> None:
        self.scene.inputs.close(number)
        self.save()
        self._send(InputDisconnected(number))

    def leave(self) -> None:
        """This process was asked to end, and is not what its state does harm to."""
        self._lived()
        self._store.close()

    def hello(self) -> Hello:
        held = tuple(device.held() for device in self._devices.values())
        inputs = tuple(device.held() for device in self.scene.inputs)
        return Hello(self.domid, self.config, held, inputs, self.scene.domain)

    def rename(self, name: str) -> None:
        """The domain's windows follow."""
        self.scene.domain = name
        for device in self._devices.values():
            device.rename()
        self.scene.flush()
        self.save()

    def _guest_writes_back(self) -> bool:
        specs = [connector.spec for device in self._devices.values() for connector in device.connectors]
        return bool(specs) and all(spec.written_back for spec in specs)

    def _caches_state(self) -> str:
        caches = self.scene.caches
        if caches and (caches.needed or caches.missing) and self._guest_writes_back():
            return f"written back by the guest: {caches.why}"
        return caches.state if caches else ""

    def status(self) -> WorkerStatus:
        caches, scene = self.scene.caches, self.scene
        writes_back = caches and caches.needed and not self._guest_writes_back()
        return WorkerStatus(
            os.getpid(),
            scene.compositor is not None,
            self._driver,
            self._caches_state(),
            caches.written_back if caches else 0,
            "python" if writes_back or not loop.current() else "compiled",
            self._ports.throttled if self._ports else 0,
            scene.pixel_bytes_copied,
            self._releases.pages_late,
            self._releases.pages,
            self._restarts,
            {str(number): device.status() for number, device in self._devices.items()},
            {str(device.number): device.status() for device in self.scene.inputs},
        )
