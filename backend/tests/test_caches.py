# SPDX-License-Identifier: MIT
"""Coherence as sysfs has it, and the write back of the CPU's caches before a frame is shown."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from serving import serving
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.cli import check
from xen_dmabuf.displif import fourcc, wire
from xen_dmabuf.errors import UserError, oserror
from xen_dmabuf.linux import ioctl
from xen_dmabuf.worker import caches, coherence
from xen_dmabuf.worker.allocators import Shape
from xen_dmabuf.worker.backing import MapBacking
from xen_dmabuf.xen import gntdev
from xen_dmabuf.xen.gntdev import Gntdev

OP = wire
CARD = os.makedev(226, 0)


class Sysfs:
    """A /sys with one DRM card: the layout that Linux gives it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = root / "firmware/devicetree/base"

    def node(self, path: str, *properties: str) -> Path:
        node = self.tree / path
        node.mkdir(parents=True, exist_ok=True)
        for name in properties:
            (node / name).touch()
        return node

    def card(self, device: str, **nodes: Path) -> None:
        """The card's device below /sys/devices; of_node of it and of those above it, by name."""
        folder = self.root / "devices" / device
        (folder / "drm/card0").mkdir(parents=True)
        (folder / "drm/card0/device").symlink_to(folder)
        char = self.root / "dev/char"
        char.mkdir(parents=True)
        (char / "226:0").symlink_to(folder / "drm/card0")
        for name, node in nodes.items():
            owner = next(path for path in (folder, *folder.parents) if path.name == name)
            (owner / "of_node").symlink_to(node)

    def ask(self, machine: str = "aarch64") -> coherence.Coherence:
        return coherence.of_device(CARD, str(self.root), machine)


@pytest.fixture
def sysfs(tmp_path) -> Sysfs:
    return Sysfs(tmp_path)


@pytest.mark.parametrize(
    ("bus", "gpu", "coherent", "why"),
    [
        ((), (), False, "no dma-coherent for /bus/gpu"),
        ((), ("dma-coherent",), True, "dma-coherent for /bus/gpu"),
        (("dma-coherent",), (), True, "dma-coherent for /bus/gpu"),
        (("dma-coherent",), ("dma-noncoherent",), False, "dma-noncoherent for /bus/gpu"),
    ],
)
def test_the_nearest_property_up_the_tree_decides(sysfs, bus, gpu, coherent, why):
    sysfs.node("bus", *bus)
    sysfs.card("platform/gpu", gpu=sysfs.node("bus/gpu", *gpu))
    assert sysfs.ask() == coherence.Coherence(coherent, why)


@pytest.mark.parametrize("coherent", [True, False])
def test_a_device_on_pci_has_its_host_bridges_answer(sysfs, coherent):
    bridge = sysfs.node("pcie@10000000", *(["dma-coherent"] if coherent else []))
    sysfs.card("platform/pcie/pci0000:00/0000:00:01.0/virtio0", pcie=bridge)
    answer = sysfs.ask()
    assert answer.coherent is coherent and "/pcie@10000000" in answer.why


def test_a_device_without_any_node_is_not_trusted(sysfs):
    sysfs.node("cpus")
    sysfs.card("platform/gpu")
    assert sysfs.ask() == coherence.Coherence(False, "no device tree node")


def test_without_a_device_tree_devices_are_coherent(sysfs):
    sysfs.card("pci0000:00/0000:00:01.0")
    assert sysfs.ask().coherent


def test_on_x86_devices_are_coherent_whatever_a_tree_says(sysfs):
    sysfs.card("platform/gpu", gpu=sysfs.node("gpu"))
    assert not sysfs.ask().coherent and sysfs.ask("x86_64").coherent


# -- the backend's side; the kernel's answers stand in for a kernel that has the call


class Kernel:
    """What gntdev answers to MAP_SYNC. ``gntdev``: the file that is asked."""

    def __init__(self, monkeypatch) -> None:
        self.answer = 0
        self.asked: list[int] = []
        self.gntdev = Gntdev(1, os.memfd_create("gntdev"))
        monkeypatch.setattr(ioctl, "call", self._call)

    def _call(self, _fd: int, request: int, argument: bytearray, path: str) -> int:
        assert request == gntdev._MAP_SYNC
        (number,) = struct.unpack_from("@I", argument)
        self.asked.append(number)
        code = errno.ENOENT if number == 0xFFFFFFFF and self.answer == 0 else self.answer
        if code:
            raise oserror(code, path)
        return 0

    def backing(self) -> MapBacking:
        """A mapping whose number is 7."""
        return MapBacking.adopt(self.gntdev, 7, "gbm", "")


@pytest.fixture
def kernel(monkeypatch) -> Iterator[Kernel]:
    kernel = Kernel(monkeypatch)
    yield kernel
    kernel.gntdev.close()


def test_a_coherent_gpu_costs_no_call(kernel):
    held = caches.Caches(kernel.gntdev, False, "/dev/dri/card0 is coherent")
    asyncio.run(held.write_back(kernel.backing()))
    assert kernel.asked == [] and "not written back: /dev/dri/card0" in held.state


def test_the_mapping_is_named_by_its_number(kernel):
    held = caches.Caches(kernel.gntdev, True, "because")
    asyncio.run(held.write_back(kernel.backing()))
    held.close()
    assert kernel.asked[-1] == 7 and held.written_back == 1
    assert held.state == "written back before each frame: because"


def test_a_kernel_without_the_call_is_named_with_the_remedy(kernel):
    kernel.answer = errno.ENOTTY
    held = caches.Caches(kernel.gntdev, True, "because")
    assert held.missing and not held.needed
    assert "NOT written back" in held.state and "kernel-patches" in held.state


@pytest.mark.parametrize(("code", "lines"), [(errno.ENOENT, 0), (errno.EIO, 1)])
def test_a_call_that_fails_stops_no_picture(kernel, caplog, code, lines):
    """ENOENT: released meanwhile."""
    held = caches.Caches(kernel.gntdev, True, "because")
    kernel.answer = code
    for _ in range(2):
        asyncio.run(held.write_back(kernel.backing()))
    held.close()
    assert held.written_back == 0 and len(caplog.records) == lines


@pytest.mark.parametrize(
    ("mode", "coherent", "needed"),
    [
        ("auto", True, False),
        ("auto", False, True),
        ("always", True, True),
        ("never", False, False),
        ("guest", True, False),
        ("guest", False, True),
    ],
)
def test_the_device_is_asked_unless_the_configuration_knows(kernel, monkeypatch, mode, coherent, needed):
    answer = coherence.Coherence(coherent, "seen")
    monkeypatch.setattr(coherence, "of_device", lambda number: answer)
    with open(os.devnull) as file:
        held = caches.open_caches(kernel.gntdev, mode, file.fileno(), "/dev/dri/card0")
    held.close()
    assert held.needed is needed and "seen" in held.state
    assert ("the configuration" in held.state) is (mode != "auto")


class Held:
    """In place of Caches: the test says when a write back is done."""

    needed, missing, state = True, False, "held"

    def __init__(self) -> None:
        self.written_back = 0
        self.asked = 0
        self.done = asyncio.Event()
        self.done.set()

    async def write_back(self, _backing) -> None:
        self.asked += 1
        await self.done.wait()
        self.written_back += 1

    def close(self) -> None:
        pass


def test_a_frame_is_shown_after_its_caches_were_written_back(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            worker.scene.caches = held = Held()
            await frontend.show(1, 64, 48)
            assert held.written_back == 2, "for the wl_buffer and for SET_CONFIG"
            counters = worker._devices[0].connectors[0].counters
            held.done.clear()
            frontend.connectors[0].post(OP.OP_PG_FLIP, 1)
            await until(lambda: held.asked == 3, "the third write back")
            assert counters.flips_requested == 0, "committed before its caches were written back"
            held.done.set()
            await until(lambda: counters.flips_shown == 1, "the flip")

    asyncio.run(run())


def test_nothing_is_waited_for_where_the_guest_writes_back(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            worker.scene.caches = held = Held()
            connector = worker._devices[0].connectors[0]
            connector.spec = replace(connector.spec, written_back=True)
            await frontend.show(1, 64, 48)
            assert held.written_back == 1, "for the wl_buffer, which may be a worker's that died"
            frontend.connectors[0].post(OP.OP_PG_FLIP, 1)
            await until(lambda: connector.counters.flips_shown == 1, "the flip")
            assert held.asked == 1
            await connector._refresh()
            assert held.asked == 2, "of what is drawn without a flip the guest knows nothing"

    asyncio.run(run())


def test_a_framebuffer_that_goes_meanwhile_is_not_shown(xen, weston):
    async def run():
        async with serving(xen, weston.socket, (64, 48), (64, 48)) as (worker, frontend):
            worker.scene.caches = held = Held()
            first, second = frontend.connectors
            await frontend.show(1, 64, 48, connector=1)
            await frontend.buffer(2, 64, 48)
            assert await first.call(OP.OP_FB_ATTACH, 2, 2, 64, 48, fourcc.XRGB8888) == 0
            connector = worker._devices[0].connectors[1]
            connector._refresher.stop()  # it asks, too
            held.done.clear()
            before = held.asked
            second.post(OP.OP_PG_FLIP, 2)
            await until(lambda: held.asked == before + 1, "the flip's write back")
            assert await first.call(OP.OP_FB_DETACH, 2) == 0
            held.done.set()
            await until(lambda: connector.counters.requests_refused == 1, "the refusal")
            assert connector.counters.flips_requested == 0

    asyncio.run(run())


def test_a_buffer_that_goes_meanwhile_is_not_imported(xen, weston, monkeypatch):
    """FB_ATTACH was answered before its caches were written back."""
    monkeypatch.setattr(limits, "ATTACH", 0.05)

    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            await until(lambda: worker.scene.compositor is not None, "the compositor")
            compositor = worker.scene.compositor
            worker.scene.caches = held = Held()
            await frontend.buffer(1, 64, 48)
            held.done.clear()
            assert await control.call(OP.OP_FB_ATTACH, 1, 1, 64, 48, fourcc.XRGB8888) == 0
            assert await control.call(OP.OP_DBUF_DESTROY, 1) == 0
            held.done.set()
            await until(lambda: held.written_back == 1, "the write back")
            await frontend.show(2, 64, 48)
            assert await control.call(OP.OP_PG_FLIP, 2) == 0
            counters = worker._devices[0].connectors[0].counters
            await until(lambda: counters.flips_shown == 1, "a flip")
            assert worker.scene.compositor is compositor, "the connection was lost"

    asyncio.run(run())


# -- `xen-dmabuf-backend check`: is the GPU's memory RAM?


class _Allocator:
    name = "gbm"

    def __init__(self) -> None:
        self.alive = 0

    def create(self, shape: Shape):
        assert shape.pages == 1
        self.alive += 1
        return self

    def destroy(self) -> None:
        self.alive -= 1

    fd, stride = 7, 4096

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        (errno.EREMOTEIO, None, ""),
        (errno.ENXIO, OSError, "contiguousSize"),
        (errno.ENOTTY, OSError, "gntdev"),
        (0, UserError, "nobody has given"),
    ],
)
def test_check_tells_ram_from_a_carve_out(monkeypatch, code, error, says):
    def call(_fd, request, argument, path):
        assert request == gntdev._MAP_REFS_TO_BUF
        if code:
            raise oserror(code, path)

    monkeypatch.setattr(ioctl, "call", call)
    allocator = _Allocator()
    with Gntdev(1, os.memfd_create("gntdev")) as device:
        if error is None:
            check.refused_as_ram(device, allocator)
        else:
            with pytest.raises(error, match=says):
                check.refused_as_ram(device, allocator)
    assert allocator.alive == 0, "the buffer stays"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.EDQUOT, "dmabuf_map_limit"), (errno.ENXIO, "no-map"), (errno.EBUSY, "busy")],
)
def test_a_refused_map_names_its_remedy(monkeypatch, code, remedy):
    def call(_fd, _request, _argument, path):
        raise oserror(code, path)

    monkeypatch.setattr(ioctl, "call", call)
    message = f"(?i){remedy}.*{gntdev.PATH}"
    with (
        Gntdev(1, os.memfd_create("gntdev")) as device,
        pytest.raises(OSError, match=message) as error,
    ):
        device.map_over([1], 7)
    assert error.value.errno == code
