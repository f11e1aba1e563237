# SPDX-License-Identifier: MIT
"""What a compositor, a frontend or a full machine may do to a worker, and what it may cost."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import errno
import gc
import mmap
import os
import resource
import signal
import socket
import time
from types import SimpleNamespace

import pytest
from fakes import PAGE
from frontend import Frontend
from odd_compositor import OddCompositor
from serving import close_releases, serving, status_of, stop
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.config import Config, Display, Gpu, Quota
from xen_dmabuf.displif import fourcc, wire
from xen_dmabuf.errors import ImportRefused, RequestError
from xen_dmabuf.link.messages import (
    AskStatus,
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Message,
    Ready,
    Refused,
    Report,
    Start,
)
from xen_dmabuf.linux import drm, gbm
from xen_dmabuf.worker import gpu
from xen_dmabuf.worker.allocators import GbmAllocator, Shape
from xen_dmabuf.worker.backing import BackingFactory, CopyBacking
from xen_dmabuf.worker.compositor import Compositor
from xen_dmabuf.worker.framebuffers import Framebuffers
from xen_dmabuf.worker.main import Control
from xen_dmabuf.worker.releases import Releases
from xen_dmabuf.xen.gntdev import Gntdev

OP = wire
_GPU = os.makedev(226, 7)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- storms


async def _storm(frontend: Frontend, connector: int, cookie: int, times: int) -> None:
    control = frontend.connectors[connector]
    for number in range(times):
        assert await control.call(OP.OP_SET_CONFIG, cookie, 0, 0, 64 - number % 2, 48, 32) == 0


def test_configurations_without_flips_are_committed_once_a_frame(xen, blind):
    """This Weston draws nothing: no commit, however many configurations come."""

    async def run():
        async with serving(xen, blind.socket) as (worker, frontend):
            await frontend.show(1, 64, 48)
            (connector,) = worker._devices[0].connectors
            await until(lambda: connector.window and connector.window._picture.placed, "the first commit")
            await _storm(frontend, 0, 1, 300)
            control = frontend.connectors[0]
            for _ in range(20):
                assert await control.call(OP.OP_SET_CONFIG, 0, 0, 0, 0, 0, 0) == 0
                assert await control.call(OP.OP_SET_CONFIG, 1, 0, 0, 63, 48, 32) == 0
            assert worker.scene.pixel_bytes_copied == 0
            assert len(connector.window._picture._callbacks) == 1
            assert connector.window._picture._next[1].width == 63, "the last one is what counts"

    asyncio.run(run())


def test_configurations_while_frames_are_held_cost_one_frame(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            await frontend.show(1, 64, 48)
            (connector,) = worker._devices[0].connectors
            assert await frontend.connectors[0].call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: not connector.window._picture._callbacks, "the first frame")
            weston.freeze()
            before = worker.scene.pixel_bytes_copied
            await _storm(frontend, 0, 1, 300)
            assert worker.scene.pixel_bytes_copied - before <= 64 * 48 * 4
            assert len(connector.window._picture._callbacks) == 1
            weston.thaw()
            await until(lambda: connector.window._picture._next is None, "the last configuration")
            assert connector.window._picture._shown[1].width == 63

    asyncio.run(run())


def test_a_full_ring_of_one_connector_leaves_another_its_turn(xen, weston):
    async def run():
        async with serving(xen, weston.socket, (64, 48), (64, 48)) as (worker, frontend):
            await frontend.show(1, 64, 48)
            first, second = frontend.connectors
            done = first._words[2]
            # at once: nobody is heard before the loop goes on
            for number in range(32):
                first.post(OP.OP_SET_CONFIG, 1, 0, 0, 64 - number % 2, 48, 32)
            second.post(0x7F, 0)
            while second.response() is None:
                await asyncio.sleep(0)
            assert first._words[2] - done <= 4, "it waited for all requests of the other"
            await until(lambda: first._words[2] - done == 32, "all answers")
            assert status_of(worker)["connectors"][0]["requests_refused"] == 0

    asyncio.run(run())


# -- pages that a compositor holds


async def _make(frontend: Frontend, cookies: range) -> list[int]:
    """Statuses of display buffers of three pages each."""
    return [(await frontend.buffer(cookie, 64, 48))[0] for cookie in cookies]


@contextlib.contextmanager
def _held(worker):
    """A compositor's descriptors of all dma-bufs."""
    buffers = worker._devices[0].buffers
    fds = [os.dup(buffer.backing.dmabuf) for buffer in buffers]
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)


def test_held_pages_count_after_a_reconnect_and_are_waited_for_once(xen, weston, monkeypatch):
    monkeypatch.setattr(limits, "DISCONNECT", 0.2)
    xen.exports = True

    async def run():
        quota = Quota(pages=16)
        async with serving(xen, weston.socket, quota=quota) as (worker, frontend):
            assert await _make(frontend, range(1, 6)) == [0] * 5
            with _held(worker):
                begin = time.monotonic()
                await worker.disconnect(0)
                assert 0.2 <= time.monotonic() - begin < 0.8, "one deadline for all five"
                assert worker.messages[-1] == Disconnected(0, False)
                assert worker.status().releasing_pages == worker.status().pages_late == 15
                again = Frontend(xen)
                await worker.connect(0, tuple(again.specs))
                assert worker.messages[-1] == Connected(0)
                assert await _make(again, range(1, 2)) == [-errno.ENOSPC]
                assert (await again.buffer(2, 32, 32))[0] == 0, "one page is left"
            await until(lambda: not worker.status().releasing_pages, "the pages")
            assert await _make(again, range(3, 6)) == [0] * 3
            assert worker.status().pages_late == 15
            again.close()

    asyncio.run(run())


def test_a_destroyed_buffer_that_is_held_counts_and_is_late_once(xen, weston, monkeypatch):
    monkeypatch.setattr(limits, "DESTROY", 0.1)
    monkeypatch.setattr(limits, "DISCONNECT", 0.1)
    xen.exports = True

    async def run():
        async with serving(xen, weston.socket, quota=Quota(buffers=2)) as (worker, frontend):
            assert await _make(frontend, range(1, 3)) == [0, 0]
            with _held(worker):
                status = await frontend.connectors[0].call(OP.OP_DBUF_DESTROY, 1)
                assert status == -errno.ETIMEDOUT
                assert await _make(frontend, range(3, 4)) == [-errno.ENOSPC]
                await worker.disconnect(0)
                assert worker.status().pages_late == 6, "three of each, the first ones once"

    asyncio.run(run())


class _Alike:
    """A backing that equals every other one."""

    def __init__(self) -> None:
        self.gone = self.closed = False

    def __eq__(self, _other: object) -> bool:
        return True

    __hash__ = None

    def release(self) -> None:
        pass

    def is_gone(self) -> bool:
        return self.gone

    def close(self) -> None:
        self.closed = True


def test_the_backing_that_is_gone_is_the_one_that_is_closed():
    async def run():
        releases = Releases()
        first, second = _Alike(), _Alike()
        held, gone = releases.add(first, 3), releases.add(second, 3)
        second.gone = True
        assert await releases.wait([gone], 1)
        assert second.closed and not first.closed and releases.pages == 3
        assert not await releases.wait([held, gone], 0.01)
        assert releases.pages_late == 3
        close_releases(releases)
        assert first.closed and len(releases) == 0

    asyncio.run(run())


# -- one job of a device after the other, and devices side by side


class Heard(Control):
    """The worker's end of a link whose other end is a list."""

    def __init__(self, domid: int) -> None:
        self.messages: list[Message] = []
        super().__init__(domid)

    def send(self, message: Message) -> None:
        self.messages.append(message)


def test_a_disconnect_that_hangs_keeps_no_other_device_waiting(xen, blind, monkeypatch):
    """A compositor holds a buffer of device 0: what else the supervisor asks is done meanwhile."""
    monkeypatch.setattr(limits, "DISCONNECT", 3600)
    xen.exports = True

    async def run():
        control = Heard(5)
        first, other = Frontend(xen), Frontend(xen)

        async def heard(*messages: Message) -> None:
            await until(lambda: len(control.messages) >= len(messages), f"{messages}")
            assert control.messages == [*messages]
            control.messages.clear()

        control.on_message(Start(5, "domu", Config(display=Display(socket=blind.socket))))
        await heard(Ready())
        control.on_message(Connect(0, tuple(first.specs)))
        await heard(Connected(0))
        assert (await first.buffer(1, 64, 48))[0] == 0
        (buffer,) = control.worker._devices[0].buffers
        held = os.dup(buffer.backing.dmabuf)
        control.on_message(Disconnect(0))
        await until(lambda: control.worker.status().releasing_pages == 3, "the wait")
        again = Frontend(xen)
        control.on_message(Connect(0, tuple(again.specs)))  # this one has to wait: it is the same device
        control.on_message(Connect(1, tuple(other.specs)))
        await heard(Connected(1))
        assert (await other.buffer(1, 64, 48))[0] == 0
        control.on_message(AskStatus())
        assert isinstance(control.messages.pop(), Report)
        control.on_message(Disconnect(1))
        await heard(Disconnected(1, True))
        assert control.worker.status().releasing_pages == 3
        os.close(held)
        await heard(Disconnected(0, True), Connected(0))
        await stop(control.worker)
        for frontend in (first, other, again):
            frontend.close()
        assert xen.mapped == xen.exported == 0 and not xen.bound and control.status == 0

    asyncio.run(run())


# -- a GPU that was chosen without the compositor


@pytest.fixture
def chosen(monkeypatch) -> list[int | None]:
    """For each choice of a GPU what the compositor named."""
    choices: list[int | None] = []

    def open_card(_configured: str, main_device: int | None) -> tuple[int, gpu.Card]:
        choices.append(main_device)
        return os.memfd_create(f"card{len(choices)}"), gpu.Card(f"/dev/dri/card{len(choices)}", "driver", True)

    monkeypatch.setattr(gpu, "open_card", open_card)
    monkeypatch.setattr(limits, "GPU_CHOICE", 0)
    named = property(lambda _compositor: _GPU, lambda _compositor, _value: None)
    monkeypatch.setattr(Compositor, "main_device", named, raising=False)
    return choices


def _is_open(number: int) -> bool:
    """Whether this process has the card of that choice."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return any(link.startswith(f"/memfd:card{number} ") for link in links)


@pytest.mark.parametrize("buffers", [False, True], ids=["no buffer", "a buffer"])
def test_a_gpu_that_was_chosen_blindly_is_chosen_again(xen, weston, chosen, buffers):
    """The DomU came before the compositor. One that has buffers of the first choice keeps it."""

    async def run():
        weston.stop()
        async with serving(xen, weston.socket) as (worker, frontend):
            assert chosen == [None]
            first = worker._factory
            if buffers:
                assert (await frontend.buffer(1, 64, 48))[0] == 0
            weston.start()
            await until(lambda: worker.scene.compositor is not None, "the compositor")
            if buffers:
                assert worker._factory is first and _is_open(1)
            else:
                await until(lambda: worker._factory not in (None, first), "another choice")
                assert chosen == [None, _GPU]
                assert not _is_open(1) and _is_open(2)
                assert worker.status().driver == "driver"
            count = len(chosen)
            assert (await frontend.buffer(2, 64, 48))[0] == 0
            weston.stop(signal.SIGKILL)
            await until(lambda: worker.scene.compositor is None, "the loss")
            weston.start()
            await until(lambda: worker.scene.compositor is not None, "the next compositor")
            await frontend.framebuffer(3, 64, 48)
            assert len(chosen) == count, "what was chosen with a compositor stays"

    asyncio.run(run())


# -- compositors


def test_an_import_that_is_given_up_leaves_no_wl_buffer(xen, tmp_path, monkeypatch):
    """The frontend closes while the compositor doesn't answer; then it does."""
    monkeypatch.setattr(limits, "DISCONNECT", 0.1)
    xen.exports = True
    path = str(tmp_path / "wayland")

    async def run():
        with OddCompositor(path, holding=True) as odd:
            async with serving(xen, path) as (worker, frontend):
                assert await _make(frontend, range(1, 2)) == [0]
                attach = (1, 1, 64, 48, fourcc.XRGB8888)
                frontend.connectors[0].post(OP.OP_FB_ATTACH, *attach)
                await until(lambda: odd.asked == 1, "the import")
                await worker.disconnect(0)
                assert worker.messages[-1] == Disconnected(0, False)
                assert xen.exported == 3, "the compositor has the dma-buf"
                odd.answer()
                await until(lambda: odd.destroyed == 1, "the late wl_buffer's end")
                await until(lambda: worker.status().releasing_pages == 0, "the pages")
                again = Frontend(xen)
                await worker.connect(0, tuple(again.specs))
                assert await _make(again, range(1, 2)) == [0]
                assert await again.connectors[0].call(OP.OP_FB_ATTACH, *attach) == 0
                assert odd.buffers == 1 and len(odd.clients) == 1
                assert await again.connectors[0].call(OP.OP_DBUF_DESTROY, 1) == 0
                assert odd.buffers == 0
                again.close()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def _importing(path: str):
    """(compositor, odd one, a task that imports and is not answered yet)."""
    with OddCompositor(path, holding=True) as odd, open(os.devnull) as file:
        compositor = Compositor(path, lambda: None)
        await compositor.connect()
        layout = (64, 48, 256, 0, fourcc.XRGB8888)
        task = asyncio.create_task(compositor.import_dmabuf(file.fileno(), *layout))
        await until(lambda: odd.asked == 1, "the import")
        yield compositor, odd, task
        compositor.close()


@pytest.mark.parametrize("moment", ["before", "with the answer"])
def test_a_cancelled_import_leaves_no_wl_buffer(tmp_path, monkeypatch, moment):
    async def run():
        async with _importing(str(tmp_path / "wayland")) as (compositor, odd, task):
            if moment == "before":
                task.cancel()
            else:
                # in the one moment between the answer's arrival and the task's next step
                imported = compositor._imported

                def imported_and_cancelled(*arguments):
                    imported(*arguments)
                    task.cancel()

                monkeypatch.setattr(compositor, "_imported", imported_and_cancelled)
            odd.answer()
            await asyncio.wait({task})
            assert task.cancelled()
            await until(lambda: odd.destroyed == 1, "the wl_buffer's end")
            assert compositor.alive and not compositor._imports

    asyncio.run(run())


def test_an_import_without_an_answer_is_refused_and_its_late_wl_buffer_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "IMPORT", 0.05)

    async def run():
        async with _importing(str(tmp_path / "wayland")) as (_compositor, odd, task):
            with pytest.raises(ImportRefused, match="no answer"):
                await task
            odd.answer()
            await until(lambda: odd.destroyed == 1, "the wl_buffer's end")

    asyncio.run(run())


@contextlib.contextmanager
def _alarm(seconds: int):
    """A system call that blocks longer is ended by an exception: nothing else could end it."""

    def ring(_number, _frame):
        raise AssertionError(f"blocked for {seconds} s")

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def test_a_full_backlog_does_not_block_the_loop(tmp_path):
    path = str(tmp_path / "wayland")

    async def run():
        waiting = []
        with socket.socket(socket.AF_UNIX) as full:
            full.bind(path)
            full.listen(0)
            while True:
                client = socket.socket(socket.AF_UNIX)
                waiting.append(client)
                client.setblocking(False)
                try:
                    client.connect(path)
                except BlockingIOError:
                    break
            before = open_files()
            with _alarm(5), pytest.raises(OSError, match=path) as error:
                await Compositor(path, lambda: None).connect()
            assert error.value.errno == errno.EAGAIN
            assert open_files() == before
            for client in waiting:
                client.close()

    asyncio.run(run())


def test_a_compositor_that_ends_every_connection_is_asked_ever_less(xen, tmp_path):
    path = str(tmp_path / "wayland")

    async def run():
        with OddCompositor(path, ends_connections=True) as odd:
            async with serving(xen, path) as (worker, frontend):
                loop = asyncio.get_running_loop()
                begin = loop.time()
                times: list[float] = []

                def three_seconds() -> bool:
                    if len(odd.clients) > len(times):
                        times.append(loop.time() - begin)
                    return loop.time() - begin >= 3

                await until(three_seconds, "three seconds")
                assert 3 <= len(times) <= 5, times
                pauses = [late - early for early, late in zip(times, times[1:], strict=False)]
                assert pauses == sorted(pauses) and pauses[-1] > 2 * pauses[0]
                assert await _make(frontend, range(1, 2)) == [0], "the DomU is served meanwhile"

    asyncio.run(run())


def test_an_import_that_fails_when_nobody_waits_leaves_no_traceback(xen, blind, monkeypatch):
    """The frontend closes, and the import ends by an error rather than by being cancelled."""
    uncaught: list[dict[str, object]] = []

    async def run():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: uncaught.append(context))
        began = asyncio.Event()

        async def fail(_framebuffers, _framebuffer):
            began.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                raise RequestError(errno.EIO, "dbuf_cookie", 1, "no buffer strategy works") from None

        async with serving(xen, blind.socket) as (worker, frontend):
            assert await _make(frontend, range(1, 2)) == [0]
            monkeypatch.setattr(Framebuffers, "_materialise", fail)
            frontend.connectors[0].post(OP.OP_FB_ATTACH, 1, 1, 64, 48, fourcc.XRGB8888)
            await began.wait()
            imports = worker._devices[0].framebuffers._imports
            await worker.disconnect(0)
            await until(lambda: not imports, "the import's end")
        gc.collect()
        assert not uncaught

    asyncio.run(run())


# -- libraries and descriptors that are missing


class _Card:
    """DRM's answers for dumb buffers, which are memory of this process."""

    def __init__(self, monkeypatch) -> None:
        self.handles: set[int] = set()
        monkeypatch.setattr(drm, "create_dumb", self._create)
        monkeypatch.setattr(drm, "destroy_dumb", lambda _fd, handle, _path: self._destroy(handle))
        monkeypatch.setattr(drm, "prime_fd", lambda *_arguments: os.memfd_create("dumb"))

    def _create(self, _fd: int, width: int, height: int, bpp: int, _path: str):
        self.handles.add(len(self.handles) + 1)
        return len(self.handles), width * bpp // 8, width * height * bpp // 8

    def _destroy(self, handle: int) -> None:
        self.handles.remove(handle)


def _without_gbm(monkeypatch) -> None:
    load = ctypes.CDLL

    def without(name, *arguments, **options):
        if name and name.startswith("libgbm"):
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return load(name, *arguments, **options)

    monkeypatch.setattr(ctypes, "CDLL", without)
    gbm._gbm.cache_clear()


def test_without_libgbm_the_next_allocator_is_taken_and_the_reason_is_told(xen, monkeypatch):
    _without_gbm(monkeypatch)
    card = _Card(monkeypatch)
    monkeypatch.setattr(Gntdev, "map_over", lambda *_arguments: None)
    monkeypatch.setattr(Gntdev, "release_over", lambda *_arguments: None)
    before = open_files()
    factory = BackingFactory(5, Gpu(), os.open(os.devnull, os.O_RDWR), "/dev/dri/card0")
    factory.prepare()
    backing = factory.make(xen.allocate(3), Shape(64, 48, 32, 3), 12288, {})
    assert (backing.strategy, backing.allocator) == ("map", "dumb")
    assert 'gbm: allocator "gbm" needs libgbm.so.1' in backing.why and "libgbm1" in backing.why
    backing.release()
    backing.close()
    factory.close()
    assert not card.handles and open_files() == before


def test_without_libgbm_the_next_strategy_is_taken_and_the_reason_is_told(xen, monkeypatch):
    _without_gbm(monkeypatch)
    before = open_files()
    gpu = Gpu(allocators=("gbm",))
    factory = BackingFactory(5, gpu, os.open(os.devnull, os.O_RDWR), "/dev/dri/card0")
    backing = factory.make(xen.allocate(3), Shape(64, 48, 32, 3), 12288, {})
    assert backing.strategy == "copy"
    assert 'map: gbm: allocator "gbm" needs libgbm.so.1' in backing.why
    assert "export: " in backing.why
    backing.release()
    backing.close()
    factory.close()
    assert xen.mapped == 0 and open_files() == before


def test_a_card_without_16_bits_is_asked_once(monkeypatch):
    """Edge: libgbm, as it is over virtio-gpu, whose dumb buffers have 32 bits only."""
    asked: list[int] = []

    class Device:
        def __init__(self, *_words):
            pass

        def create(self, _width, _height, code, _flags):
            asked.append(code)
            if code == fourcc.RGB565:
                raise OSError(errno.EINVAL, "CREATE_DUMB failed")
            file = os.memfd_create("bo")
            os.truncate(file, 3 * PAGE)
            return SimpleNamespace(stride=4096, prime_fd=lambda: file, destroy=lambda: None)

    monkeypatch.setattr(gbm, "Device", Device)
    allocator = GbmAllocator(-1, "card")
    for _ in range(2):
        allocator.create(Shape(64, 48, 16, 3)).destroy()
    assert asked == [fourcc.RGB565] * 3 + [fourcc.XRGB8888] * 2


def test_a_copy_whose_memory_can_not_be_mapped_leaves_no_descriptor(monkeypatch):
    def refused(*_arguments, **_options):
        raise OSError(errno.ENOMEM, "no memory")

    with mmap.mmap(-1, 3 * PAGE) as pages:
        before = open_files()
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no memory"):
            patch.setattr(mmap, "mmap", refused)
            CopyBacking(None, SimpleNamespace(map=pages), 12288)
        assert open_files() == before


@contextlib.contextmanager
def _room_for(count: int):
    """No more than so many descriptors can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fds = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + count, hard))
    try:
        with contextlib.suppress(OSError):  # numbers that are free below the highest one
            while True:
                fds.append(os.dup(0))
        for _ in range(count):
            os.close(fds.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("exports", [False, True], ids=["copy", "export"])
def test_too_few_descriptors_for_a_buffer_leave_none_behind(xen, weston, exports):
    """With room for none, one, two ... until it works."""
    xen.exports = exports

    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            await until(lambda: worker.scene.compositor is not None, "the compositor")
            room, refused, status = 0, 0, -1
            while status:
                assert room < 20, "it never worked"
                directory, _first = frontend.directory(3)
                before, mapped = open_files(), xen.mapped
                with _room_for(room):
                    create = (1, 64, 48, 32, 12288, 0, directory, 0)
                    status = await control.call(OP.OP_DBUF_CREATE, *create)
                if status:
                    assert status in (-errno.EMFILE, -errno.EIO)
                    assert open_files() == before and xen.mapped == mapped and xen.exported == 0
                    refused += 1
                room += 1
            assert refused >= 4
            assert worker.status().releasing_pages == 0
            assert await control.call(OP.OP_DBUF_DESTROY, 1) == 0
            assert open_files() == before and xen.mapped == mapped

    asyncio.run(run())


def test_connecting_that_is_refused_costs_no_journal(xen, weston):
    """There are 256, and a DomU may try as often as it likes."""

    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            wrong = Frontend(xen, (64, 48), (64, 48))
            first, second = wrong.specs
            specs = (first, dataclasses.replace(second, evt_ref=0x7FFFFFFF))
            before = open_files()
            for _ in range(300):
                await worker.connect(1, specs)
                assert isinstance(worker.messages[-1], Refused)
                assert "/dev/xen/gntdev" in worker.messages[-1].reason
            assert open_files() == before
            await worker.connect(1, tuple(wrong.specs))
            assert worker.messages[-1] == Connected(1)
            wrong.close()

    asyncio.run(run())
