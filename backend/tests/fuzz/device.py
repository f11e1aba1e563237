# SPDX-License-Identifier: MIT
"""A whole Device over a DomU's fake pages, without a compositor: often plausible requests, and what isn't."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import mmap
import os
import random
import struct

import pytest
from fakes import FakeXen
from serving import close_releases

from xen_dmabuf.config import Config, Display, Gpu, Quota
from xen_dmabuf.displif import fourcc, wire
from xen_dmabuf.displif.spec import ConnectorSpec
from xen_dmabuf.linux import ioctl
from xen_dmabuf.pump import loop as pump_loop
from xen_dmabuf.worker.backing import BackingFactory
from xen_dmabuf.worker.device import Device
from xen_dmabuf.worker.ports import Ports
from xen_dmabuf.worker.releases import Releases
from xen_dmabuf.worker.scene import Scene
from xen_dmabuf.worker.state import VERSION, StoredWorker, pack, read, read_buffer
from xen_dmabuf.worker.statefile import StateError, StateFile
from xen_dmabuf.xen import gntdev
from xen_dmabuf.xen.evtchn import Evtchn
from xen_dmabuf.xen.gntdev import Gntdev

from .base import Faults, Wrong, check, garble, number, open_files, patched, run, settle, strict_log

_MASK = 0xFFFFFFFF
_PAGE = 4096
_DOMID = 5
_FAULTS = (errno.EMFILE, errno.ENOMEM, errno.EINVAL)
_STATUSES = {
    *_FAULTS,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENOSPC,
    errno.EOPNOTSUPP,
    errno.EIO,
    errno.EBUSY,
    errno.ETIMEDOUT,
}
_FORMATS = (fourcc.XRGB8888, fourcc.ARGB8888, fourcc.RGB565, fourcc.code("RG24"), 0, 0x20202020)
_DIRECTORIES, _BUFFERS = range(10, 20), 20


class Domu(FakeXen):
    """A small DomU, whose pages this process sees all at once."""

    PAGES = 120

    def __init__(self) -> None:
        super().__init__()
        self.view = memoryview(mmap.mmap(self.memory, self.PAGES * _PAGE))

    def words(self, ref: int) -> memoryview:
        return self.view[ref * _PAGE : (ref + 1) * _PAGE].cast("I")

    def _granted(self, refs: list[int]) -> None:
        if any(ref not in self.granted for ref in refs) or refs != list(range(refs[0], refs[0] + len(refs))):
            raise OSError(errno.EINVAL, "not granted, or in pieces, which this fake hasn't")

    def fail(self, patch: pytest.MonkeyPatch, faults: Faults) -> None:
        """Let what a kernel may lack room for fail; after install(). Giving back never fails."""
        call = ioctl.call
        safe = {number for number, answer in self._ioctls.items() if answer in (self._unmap, self._unbind)}
        safe.add(gntdev._EXP_WAIT_RELEASED)

        def called(fd: int, request: int, argument: bytearray, path: str) -> int:
            if request not in safe:
                faults.strike(path)
            return call(fd, request, argument, path)

        patch.setattr(ioctl, "call", called)
        patch.setattr(ioctl, "open_device", faults.wrap(ioctl.open_device, "/dev/xen"))
        patch.setattr(mmap, "mmap", faults.wrap(mmap.mmap, "mmap"))

    def tell(self, port: int) -> None:
        """kick(), if the backend still has the port."""
        if port in self.bound.values():
            self.kick(port)


class _Tables:
    """The display buffers and framebuffers (of which display buffer) that there must be, by the responses."""

    def __init__(self) -> None:
        self.buffers: set[int] = set()
        self.framebuffers: dict[int, int] = {}

    def answered(self, request: wire.Request, status: int) -> None:
        body = request.body
        if isinstance(body, wire.DbufCreate) and not status:
            check(body.dbuf_cookie not in self.buffers, "a display buffer twice", body)
            self.buffers.add(body.dbuf_cookie)
        elif isinstance(body, wire.DbufDestroy):
            known = body.dbuf_cookie in self.buffers
            check(known == (status in (0, -errno.ETIMEDOUT)), "DBUF_DESTROY", body, status)
            self.buffers.discard(body.dbuf_cookie)
            self.framebuffers = {fb: on for fb, on in self.framebuffers.items() if on != body.dbuf_cookie}
        elif isinstance(body, wire.FbAttach) and not status:
            check(body.fb_cookie not in self.framebuffers and body.dbuf_cookie in self.buffers, "FB_ATTACH", body)
            self.framebuffers[body.fb_cookie] = body.dbuf_cookie
        elif isinstance(body, wire.FbDetach):
            check((body.fb_cookie in self.framebuffers) == (status == 0), "FB_DETACH", body, status)
            self.framebuffers.pop(body.fb_cookie, None)


class Connector:
    """The frontend's end of one: it knows what was posted, and checks each answer."""

    def __init__(
        self, xen: Domu, chance: random.Random, index: int, tables: _Tables | None, statuses: set[int]
    ) -> None:
        self.xen = xen
        self.statuses = statuses
        self.tables = tables
        ring, page = 1 + 2 * index, 2 + 2 * index
        size = chance.choice((1, 64, 640)), chance.choice((1, 48, 480))
        self.spec = ConnectorSpec(index, f"id{index}", *size, ring, xen.new_port(), page, xen.new_port())
        self.page = xen.view[ring * _PAGE : (ring + 1) * _PAGE]
        self.words = xen.words(ring)
        self.event_page = xen.view[page * _PAGE : (page + 1) * _PAGE]
        self.event_words = xen.words(page)
        self.page[:] = self.event_page[:] = bytes(_PAGE)
        start = chance.choice((0, 0, _MASK - 5, chance.getrandbits(32)))
        self.words[0] = self.words[2] = self.seen = self.produced = start
        self.words[3] = (start + 1) & _MASK
        self.event_words[0] = self.event_words[1] = chance.choice((0, 0, 63, chance.getrandbits(31)))
        self.open: list[bytes] = []
        self.flips: list[int] = []
        self.shown: list[int] = []
        self.lied = self.hopeless = False

    def close(self) -> None:
        self.words.release()
        self.event_words.release()

    @property
    def room(self) -> int:
        return 32 - ((self.words[0] - self.seen) & _MASK)

    def post(self, packet: bytes) -> None:
        produced = self.words[0]
        start = 64 + produced % 32 * 64
        self.page[start : start + 64] = packet
        self.words[0] = self.produced = (produced + 1) & _MASK
        self.open.append(packet)

    def lie(self, chance: random.Random) -> None:
        """From now on only what must never be is checked."""
        if chance.random() < 0.3:
            self.event_words[0] = number(chance, 32)
        else:
            ahead = chance.choice((33, 1 << 31, chance.randrange(-31, 33), chance.getrandbits(32)))
            self.words[0] = (self.words[0] + ahead) & _MASK
            # lies add up: some may be believed meanwhile, or taken back before anybody looks
            self.hopeless = 1 << 16 < (self.words[0] - self.produced) & _MASK < _MASK - (1 << 16)
        self.lied = True

    def collect(self) -> None:
        """Take all responses and events."""
        while not self.lied and self.seen != self.words[2]:
            check(self.open, "a response to nothing", self.spec.index)
            request = wire.parse_request(self.open.pop(0))
            start = 64 + self.seen % 32 * 64
            identifier, operation, status, size = struct.unpack_from("<HBxiI", self.page, start)
            self.seen = (self.seen + 1) & _MASK
            self.words[3] = (self.seen + 1) & _MASK
            check((identifier, operation) == (request.id, request.operation), "another response", request)
            check(status <= 0 and (not status or -status in self.statuses), "status", request, status)
            check(size == (128 if operation == wire.OP_GET_EDID and not status else 0), "edid_sz", request, size)
            if request.body is None:
                check(status == -errno.EOPNOTSUPP, "an unknown operation", request, status)
            elif operation == wire.OP_PG_FLIP and not status:
                self.flips.append(request.body.fb_cookie)
            elif self.tables:
                self.tables.answered(request, status)
        while not self.lied and self.event_words[0] != self.event_words[1]:
            start = 64 + self.event_words[0] % 63 * 64
            identifier, kind, cookie = struct.unpack_from("<HB5xQ", self.event_page, start)
            check((identifier, kind) == (len(self.shown) & 0xFFFF, wire.EVT_PG_FLIP), "event", identifier, kind)
            self.shown.append(cookie)
            self.event_words[0] = (self.event_words[0] + 1) & _MASK

    @property
    def quiet(self) -> bool:
        """Whether all is answered, so that nothing more may come."""
        self.collect()
        return self.lied or (not self.open and len(self.shown) >= len(self.flips))


class _Requests:
    """Makes packets of which most could be a frontend's."""

    def __init__(self, xen: Domu, chance: random.Random, tables: _Tables) -> None:
        self.xen, self.chance, self.tables = xen, chance, tables
        self._sizes: dict[int, tuple[int, int]] = {}
        self._makers = {
            wire.OP_DBUF_CREATE: ("<QIIIIIII", self._create, 5),
            wire.OP_FB_ATTACH: ("<QQIII", self._attach, 5),
            wire.OP_SET_CONFIG: ("<QIIIII", self._config, 5),
            wire.OP_PG_FLIP: ("<Q", self._flip, 12),
            wire.OP_FB_DETACH: ("<Q", self._flip, 1),
            wire.OP_DBUF_DESTROY: ("<Q", lambda: (self._cookie(self.tables.buffers),), 1),
            wire.OP_GET_EDID: ("<II", self._edid, 1),
            0: ("<Q", lambda: (number(chance, 64),), 1),
        }

    def packet(self) -> bytes:
        """Any."""
        weights = [weight for _layout, _numbers, weight in self._makers.values()]
        (operation,) = self.chance.choices(list(self._makers), weights)
        layout, numbers, _weight = self._makers[operation]
        packet = self._pack(operation or self.chance.randrange(256), layout, *numbers())
        return garble(self.chance, packet)[:64].ljust(64, b"\0") if self.chance.random() < 0.03 else packet

    def show(self) -> tuple[bytes, bytes, list[bytes]]:
        """What shows a picture: DBUF_CREATE and FB_ATTACH, which connector 0 is asked for; the rest."""
        cookie, framebuffer = self.chance.randrange(1, 20), self.chance.randrange(1, 20)
        create = (cookie, 64, 48, 32, 12288, 0, self._directory(3), 0)
        attach = (cookie, framebuffer, 64, 48, fourcc.XRGB8888)
        self._sizes[cookie] = self._sizes[framebuffer] = (64, 48)
        rest = [self._pack(wire.OP_SET_CONFIG, "<QIIIII", framebuffer, 0, 0, 64, 48, 32)]
        rest += [self._pack(wire.OP_PG_FLIP, "<Q", framebuffer)] * self.chance.randrange(4)
        return (
            self._pack(wire.OP_DBUF_CREATE, "<QIIIIIII", *create),
            self._pack(wire.OP_FB_ATTACH, "<QQIII", *attach),
            rest,
        )

    def _pack(self, operation: int, layout: str, *numbers: int) -> bytes:
        header = struct.pack("<HB5x", self.chance.getrandbits(16), operation)
        return (header + struct.pack(layout, *numbers)).ljust(64, b"\0")

    def _cookie(self, known: object) -> int:
        chance = self.chance
        known = list(known)
        if known and chance.random() < 0.9:
            return chance.choice(known)
        return chance.randrange(1, 20) if chance.random() < 0.9 else number(chance, 64)

    def _directory(self, pages: int) -> int:
        """One page of references, which fits all buffers that this DomU has room for."""
        chance, page = self.chance, self.chance.choice(_DIRECTORIES)
        first = chance.randrange(_BUFFERS, max(_BUFFERS + 1, self.xen.PAGES - pages))
        refs = array.array("I", [0, *range(first, first + min(pages, 1023))])
        if chance.random() < 0.05:
            refs[chance.randrange(len(refs))] = number(chance, 32)
        self.xen.words(page)[: len(refs)] = memoryview(refs)
        return page if chance.random() < 0.97 else number(chance, 32)

    def _size(self, cookie: int) -> tuple[int, int]:
        """Of what has this cookie, or another."""
        chance = self.chance
        if chance.random() < 0.05:
            return number(chance, 32), number(chance, 32)
        if chance.random() < 0.2:
            return chance.choice((1, 8, 33, 64)), chance.choice((1, 16, 48))
        return self._sizes.get(cookie, (64, 48))

    def _create(self) -> tuple[int, ...]:
        chance, cookie = self.chance, self._cookie(())
        width, height = self._sizes[cookie] = chance.choice((1, 8, 33, 64)), chance.choice((1, 16, 48))
        bpp = chance.choice((32, 32, 32, 24, 16))
        offset = chance.choice((0, 0, 0, 64, 4096))
        size = offset + (width * bpp + 7) // 8 * height + chance.choice((0, 0, 0, 0, 1, -1, 4096, 65536))
        if chance.random() < 0.15:
            width = height = bpp = 0
        numbers = [cookie, width, height, bpp, size, 0, self._directory(-(-size // _PAGE)), offset]
        if chance.random() < 0.1:
            numbers[chance.randrange(8)] = number(chance, 32)
        return tuple(numbers)

    def _attach(self) -> tuple[int, ...]:
        chance = self.chance
        code = chance.choice(_FORMATS) if chance.random() < 0.3 else fourcc.XRGB8888
        buffer, framebuffer = self._cookie(self.tables.buffers), self._cookie(())
        size = self._sizes[framebuffer] = self._size(buffer)
        return buffer, framebuffer, *size, code

    def _config(self) -> tuple[int, ...]:
        chance = self.chance
        if chance.random() < 0.1:
            return (0,) * 6
        cookie = self._cookie(self.tables.framebuffers)
        place = [chance.choice((0, 0, 0, 0, 0, 1, 16, 64)) for _ in range(2)]
        return cookie, *place, *self._size(cookie), 32

    def _flip(self) -> tuple[int, ...]:
        return (self._cookie(self.tables.framebuffers),)

    def _edid(self) -> tuple[int, ...]:
        size = self.chance.choice((wire.EDID_MAX_SIZE, wire.EDID_MAX_SIZE, number(self.chance, 32)))
        return size, self._directory(1)


class _Store:
    """Where a worker keeps files: nowhere, and each by one name."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def add(self, name: str, fd: int) -> None:
        os.fstat(fd)
        check(name not in self.names, "kept twice", name)
        self.names.add(name)

    def remove(self, name: str) -> None:
        self.names.discard(name)


class Session:
    """One worker's files, and one connection of a frontend after the other."""

    statuses = _STATUSES

    def __init__(self, chance: random.Random, xen: Domu, faults: Faults) -> None:
        self.chance, self.xen, self.faults = chance, xen, faults
        quota = Quota(3, chance.randrange(1, 6), chance.choice((4, 16, 65536)), 640, 480)
        self.config = Config(display=Display(socket=""), quota={"default": quota})
        self.quota = quota
        self.grants, self.ports = Gntdev(_DOMID), Ports(Evtchn(_DOMID))
        self.state, self.releases, self.store = StateFile(), Releases(), _Store()
        gpu = Gpu(strategies=chance.choice((("map", "export", "copy"), ("copy",), ("export",))))
        self.factory = BackingFactory(_DOMID, gpu, -1, "", "no GPU")
        self.inputs = 0
        self.broken: list[str] = []
        self.held: list[int] = []

    async def run(self) -> int:
        try:
            for _ in range(self.chance.randrange(1, 4)):
                await self._connection()
        finally:
            self._let_go()
            close_releases(self.releases)
            self.factory.close()
            self.ports.close()
            self.grants.close()
            self.state.close()
        return self.inputs

    async def _make_factory(self, _by: float = 0.0) -> BackingFactory:
        if self.chance.random() < 0.2:  # as if the compositor were waited for
            await asyncio.sleep(0.5)
        return self.factory

    def _save(self, device: Device) -> None:
        stored = StoredWorker(VERSION, _DOMID, "domu", 0, self.config, (device.stored(),))
        self.state.write(pack(stored))

    def _let_go(self) -> None:
        while self.held:
            os.close(self.held.pop())

    async def _connection(self) -> None:
        chance, xen = self.chance, self.xen
        before = open_files()
        self.broken.clear()
        tables = _Tables()
        connectors = [
            Connector(xen, chance, index, None if index else tables, self.statuses)
            for index in range(chance.randrange(1, 4))
        ]
        self.scene = Scene("domu", self.config)
        device = Device(
            0,
            self.grants,
            self.ports,
            self.scene,
            self.quota,
            self.releases,
            self.store,  # type: ignore[arg-type]
            self.state,
            self._make_factory,
            lambda: self._save(device),
            self.broken.append,
        )
        self._begin(device)
        self.faults.rate = chance.choice((0.0, 0.0, 0.02, 0.2))
        xen.granted = range(1, xen.PAGES)
        try:
            device.connect(tuple(connector.spec for connector in connectors))
        except OSError:
            check(self.faults.raised, "an OSError that nobody injected")
        else:
            xen.granted = range(_DIRECTORIES[0], xen.PAGES)  # GET_EDID would write over its own rings
            await self._talk(device, connectors, tables)
        await self._close(device)
        for connector in connectors:
            connector.close()
        check(xen.mapped == 0, "pages are mapped", xen.mapped)
        check(xen.exported == 0, "dma-bufs are open", xen.exported)
        check(not xen.bound, "event channels are bound", xen.bound)
        check(not len(self.releases), "backings are left", len(self.releases))
        check(open_files() == before, "descriptors are left", open_files() - before)
        check(not self.state.live_journals(), "journals are left")
        check(not self.store.names, "files are kept", self.store.names)

    async def _talk(self, device: Device, connectors: list[Connector], tables: _Tables) -> None:
        chance = self.chance
        requests = _Requests(self.xen, chance, tables)
        for _ in range(chance.randrange(1, 30)):
            connector = chance.choice((connectors[0], chance.choice(connectors)))
            if chance.random() < 0.01:
                connector.lie(chance)
                self.inputs += 1
            elif chance.random() < 0.25:
                create, attach, rest = requests.show()
                self._post(connectors[0], [create, attach])
                if connector is not connectors[0]:
                    await self._answers(connectors[0])
                self._post(connector, rest)
            else:
                self._post(connector, [requests.packet() for _ in range(chance.choice((1, 1, 1, 2, 8, 32)))])
            if chance.random() < 0.05:
                self.xen.tell(chance.choice(connectors).spec.req_port)
            self._hold(device)
            if chance.random() < 0.5:
                await self._answers(connector)
            else:
                for _ in range(chance.randrange(20)):
                    await asyncio.sleep(0)
            for each in connectors:
                each.collect()
            if self.broken:
                break
        if chance.random() < 0.7:
            await self._finish(device, connectors, tables)

    def _begin(self, device: Device) -> None:
        """Nobody is answered yet."""

    async def _answers(self, connector: Connector) -> None:
        """Wait for all that is to come."""
        await settle(lambda: self.broken or connector.quiet, "answers")

    def _is_held(self) -> bool:
        """Whether somebody else may have pages."""
        return bool(self.held)

    def _post(self, connector: Connector, packets: list[bytes]) -> None:
        """As many as there is room for."""
        for packet in packets:
            if connector.room > 0 and not connector.lied:
                connector.post(packet)
                self.inputs += 1
        self.xen.tell(connector.spec.req_port)

    def _hold(self, device: Device) -> None:
        """As a compositor that has a dma-buf longer than it is asked to."""
        if self.chance.random() < 0.05:
            for buffer in device.buffers:
                if buffer.backing and buffer.backing.dmabuf is not None:
                    self.held.append(os.dup(buffer.backing.dmabuf))
        elif self.chance.random() < 0.1:
            self._let_go()

    async def _finish(self, device: Device, connectors: list[Connector], tables: _Tables) -> None:
        """All is answered; then tables, journals and events are what the frontend was told."""
        for connector in connectors:
            self.xen.tell(connector.spec.req_port)
        hopeless = any(connector.hopeless for connector in connectors)
        await settle(lambda: self.broken or (not hopeless and all(c.quiet for c in connectors)), "all answers")
        # an event channel that can't be notified is one of those that nothing goes on with
        unheard = self.faults.raised and all("/dev/xen/evtchn" in reason for reason in self.broken)
        lied = any(c.lied for c in connectors)
        check(hopeless or not self.broken or lied or unheard, "given up", self.broken)
        check(not any("internal" in reason for reason in self.broken), "a bug", self.broken)
        if self.broken:
            return
        for connector in connectors:
            if not connector.lied:
                check(connector.shown == connector.flips, "events", connector.shown, connector.flips)
        if not connectors[0].lied:
            check({b.cookie for b in device.buffers} == tables.buffers, "display buffers", tables.buffers)
            found = {fb.cookie: fb.buffer.cookie for fb in device.framebuffers}
            check(found == tables.framebuffers, "framebuffers", found, tables.framebuffers)
        self._save(device)
        try:
            stored = read(self.state.read(), _DOMID)
            check(stored.devices == (device.stored(),), "another state is read than was written")
            for buffer in device.buffers:
                check(read_buffer(buffer.stored())[1] == buffer.refs, "another buffer is read")
        except StateError as error:
            raise Wrong("a successor would refuse the state") from error

    async def _close(self, device: Device) -> None:
        released = await device.close()
        check(released or self._is_held(), "pages are held, and nobody holds them")
        self._let_go()
        await settle(lambda: not len(self.releases), "the last pages")
        self.faults.rate = 0.0
        check(await device.close(), "closing twice")
        for connector in device.connectors:
            raise Wrong(f"connector {connector.spec.name} is left")


def device_session(chance: random.Random, kind: type[Session] = Session) -> int:
    """An input is a request or a lying index."""

    async def begin() -> int:
        return await kind(chance, xen, faults).run()

    xen = Domu()
    xen.exports = chance.random() < 0.4
    faults = Faults(chance, _FAULTS)
    try:
        with patched() as patch, strict_log():
            xen.install(patch)
            xen.fail(patch, faults)
            compiled = chance.random() < 0.5 and pump_loop.lib is not None
            if compiled:
                xen.install_pump(patch)
            patch.setattr(os, "memfd_create", faults.wrap(os.memfd_create, "memfd"))
            patch.setattr(os, "ftruncate", faults.wrap(os.ftruncate, "memfd"))
            return int(run(begin(), compiled)) + 1
    finally:
        with contextlib.suppress(BufferError):
            xen.view.release()
        xen.close()
