# SPDX-License-Identifier: MIT
"""Dom0's screen in the hands of another compositor than Weston, with dma-bufs: ``make test-compositors``.

wlroots draws by llvmpipe here. That puts no fence on what it reads and writes, so it has to be through when the
compositor goes on: without threads (LP_NUM_THREADS=0) it is. With them pictures mix frames, or stand still.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from testbed import machine, pattern
from testbed.deadline import wait_until
from testbed.display import DomU, Scene, mapped_grants, screenshot, shown_exactly, wait_until_gone
from testbed.layout import REPOSITORY
from testbed.qemu import TEST_SCREEN

pytestmark = [pytest.mark.testbed, pytest.mark.compositors]

FOLDER = REPOSITORY / "build" / "compositors"
PACKAGES = ("sway", "labwc", "fonts-dejavu-core", "xkb-data")
FLIPS = 300
PICTURES = 20

_START = """
systemctl stop weston.service weston.socket
systemctl start seatd
mkdir -p /run/config/{name} /etc/xen-dmabuf/backend.toml.d
printf '%b' '{config}' > /run/config/{name}/config
systemd-run --quiet --collect --unit={name} -p User=weston -p Group=wayland -p UMask=0007 \
  -p RuntimeDirectory={name} -p RuntimeDirectoryMode=0750 -E XDG_RUNTIME_DIR=/run/{name} -E HOME=/run/{name} \
  -E LIBSEAT_BACKEND=seatd -E WLR_RENDERER_ALLOW_SOFTWARE=1 -E WLR_SCENE_DISABLE_DIRECT_SCANOUT=1 \
  -E LP_NUM_THREADS=0 {command}
printf '[display]\\nsocket = "/run/{name}/{socket}"\\n' > /etc/xen-dmabuf/backend.toml.d/compositor.toml
"""
_STOP = (
    "systemctl stop {name} seatd; systemctl reset-failed {name}; rm -f /etc/xen-dmabuf/backend.toml.d/compositor.toml"
)


@dataclass(frozen=True)
class Kind:
    """A compositor: its command line, its configuration (backslashes as printf has them), its socket."""

    command: str
    config: str
    socket: str


KINDS = {
    "sway": Kind("sway -c /run/config/sway/config", r"default_border none\nxwayland disable\n", "wayland-1"),
    "labwc": Kind("labwc -C /run/config/labwc", "", "wayland-0"),
}


@pytest.fixture(scope="module")
def dom0_with_more():
    """(Qemu, Dom0) of a Dom0 that has the packages."""
    with machine.boot(machine.build(more=PACKAGES), FOLDER, TEST_SCREEN) as running:
        yield running


@pytest.fixture(params=KINDS)
def scene(request, dom0_with_more) -> Iterator[Scene]:
    """Dom0 with the compositor on its screen, and a DomU that flips as fast as it is answered."""
    qemu, dom0 = dom0_with_more
    name, kind = request.param, KINDS[request.param]
    dom0.run(_START.format(name=name, command=kind.command, config=kind.config, socket=kind.socket))
    domu = DomU(qemu, dom0)
    try:
        wait_until(lambda: not dom0.try_run(f"test -S /run/{name}/{kind.socket}").status, 60, f"{name}'s socket")
        dom0.run("systemctl reload xen-dmabuf-backend")
        qemu.point(TEST_SCREEN[0] - 1, TEST_SCREEN[1] - 1)
        domu.start_pattern()
        yield Scene(qemu, dom0, domu, FOLDER)
    finally:
        journal = dom0.try_run(f"journalctl -b --no-pager -u {name} -u 'xen-dmabuf*' -n 300").output
        (FOLDER / f"{name}.journal.txt").write_text(journal, encoding="utf-8")
        for domain in dom0.domains():
            dom0.try_run(f"xl destroy {domain['domid']}")
        domu.forget()
        dom0.try_run(_STOP.format(name=name))


def _one_frame(scene: Scene, name: str, width: int, height: int) -> int:
    """Which frame the screen shows; every pixel is that one's."""
    pixels = screenshot(scene.machine, scene.folder / f"{name}.png")
    seen = pattern.locate(pixels, width, height, 0)
    assert seen, f"no picture on the screen: {name}.png"
    pattern.require_exact(pixels, width, height, 0, seen.frame)
    return seen.frame


def test_pictures_are_whole_and_flips_go_on_and_nothing_is_held(scene, request):
    domu, name = scene.domu, request.node.callspec.id
    screen = domu.screens()[0]
    size = screen["width"], screen["height"]
    wait_until(lambda: pattern.locate(screenshot(scene.machine, FOLDER / f"{name}.png"), *size, 0), 60, "the picture")
    frames = [_one_frame(scene, f"{name}-{number}", *size) for number in range(PICTURES)]
    assert len(set(frames)) > PICTURES // 4, f"it stands still: {frames}"
    assert {buffer["strategy"] for buffer in domu.buffers()} == {"map"}, domu.buffers()

    domu.screens("hold")
    before = domu.screens()[0]["frame"]
    flipped = domu.screens(f"flip {FLIPS}", timeout=240)[0]
    assert flipped["frame"] - before >= FLIPS and not flipped["error"]
    shown_exactly(scene, f"{name}-held", flipped)

    domu.send("run")
    domid = domu.domid
    scene.dom0.run(f"xl destroy {domid}", timeout=60)
    wait_until_gone(scene, domid)
    assert not mapped_grants(scene.dom0, domid)
