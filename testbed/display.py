# SPDX-License-Identifier: MIT
"""DomUs with a screen and a network, as `make view` and the testbed's own tests and benchmarks use them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from oeqa.runtime.xen_dmabuf import dom0 as image_test

from . import pattern
from .deadline import wait_until
from .errors import ProofError
from .guest import Dom0, Guest, Json, Target
from .pattern import Pixels
from .qemu import DOMU_ADDRESSES, Qemu

RELEASE_SECONDS = 30
TERMINAL = (
    "systemd-run --quiet --collect --unit=terminal -p User=weston -p WorkingDirectory=/home/weston "
    "-E XDG_RUNTIME_DIR=/run/user/$(id -u weston) -E WAYLAND_DISPLAY=/run/wayland-0 "
    "weston-terminal --fullscreen --shell=/bin/sh"
)
TERMINAL_RUNS = "pgrep -P $(systemctl show -P MainPID terminal) sh"
PATTERN_INIT = "init=/usr/lib/xen-dmabuf/pattern-init"


def _kernel_line(name: str, *more: str) -> str:
    network = f"ip={DOMU_ADDRESSES[name]}::10.0.2.2:255.255.255.0:{name}:eth0:off"
    return " ".join(["console=hvc0 root=/dev/xvda ro panic=-1 loglevel=5 mitigations=off", network, *more])


class DomU(Guest):
    """A DomU of the layer's domu.cfg. Not thread-safe."""

    def __init__(self, machine: Qemu, dom0: Dom0, name: str = "domu") -> None:
        super().__init__(machine, name)
        self.dom0 = dom0
        self.domid = -1

    def start_pattern(self, options: str = "", **overrides: str) -> None:
        """Create the domain with the test pattern and wait until it answers; ``overrides``: of xl."""
        pattern = f"pattern={options.replace(' ', ',')}" if options else ""
        self._create(_kernel_line(self.name, PATTERN_INIT, pattern), **overrides)
        self._wait_for_pattern()

    def _wait_for_pattern(self) -> None:
        wait_until(
            lambda: self.try_run("xen-dmabuf-pattern send state").status == 0, 120, f"{self.name}: the pattern program"
        )

    def boot(self) -> None:
        """Create the domain with systemd but without its Weston, and wait until it answers."""
        self._create(_kernel_line(self.name, "systemd.unit=multi-user.target"))

    def start_weston(self) -> None:
        """Start Weston in a domain that boot() has made, and wait until it is ready."""
        self.run("systemctl start weston", timeout=240)

    def start_terminal(self) -> None:
        """A terminal that fills the screen of the DomU's Weston; wait until its shell runs."""
        self.run(TERMINAL)
        wait_until(lambda: self.try_run(TERMINAL_RUNS).status == 0, 60, "the shell")

    def _create(self, line: str, **overrides: str) -> None:
        self.forget()
        self.domid = self.dom0.create(self.name, extra=f'"{line}"', **overrides)
        self.wait_for_ssh(240)

    def send(self, command: str, timeout: float = 60) -> Json:
        """A command to the pattern program; its answer."""
        answer: Json = json.loads(self.run(f"xen-dmabuf-pattern send '{command}'", timeout))
        if "error" in answer:
            raise ProofError(f"{self.name}: pattern program, `{command}`: {answer['error']}")
        return answer

    def screens(self, command: str = "state", timeout: float = 60) -> list[Json]:
        """State of all screens after a command."""
        screens: list[Json] = self.send(command, timeout)["screens"]
        return screens

    def backend_status(self) -> Json:
        """This domain in the backend's status."""
        domains: list[Json] = self.dom0.status()["domains"]
        for domain in domains:
            if domain["domid"] == self.domid:
                return domain
        raise ProofError(f"the backend's status has no domain {self.domid} ({self.name})")

    def buffers(self) -> list[Json]:
        """All display buffers of this domain as the backend sees them."""
        return [buffer for device in self.backend_status()["devices"] for buffer in device.get("buffers", [])]


def screenshot(machine: Qemu, target: Path, output: int = 0) -> Pixels:
    """An output of Dom0, saved as PNG and as an array."""
    machine.screenshot(target, output)
    with Image.open(target) as image:
        return np.asarray(image.convert("RGB"))


def mapped_grants(dom0: Dom0, domid: int) -> int:
    """How many pages of a domain Dom0 has mapped, from Xen's own table; AssertionError if Xen doesn't say."""
    return image_test.Dom0(Target(dom0)).grants(domid)


@dataclass
class Scene:
    """A machine, and the DomU that a test looks at; pictures go to ``folder``."""

    machine: Qemu
    dom0: Dom0
    domu: DomU
    folder: Path


def shown_exactly(scene: Scene, name: str, screen: Json) -> pattern.Sighting:
    """The screen shows the DomU's frame exactly; ``name``.png. The frame is answered when Weston has drawn it; what
    virtio-gpu scans out may be one refresh behind, so a held frame gets a moment to arrive."""
    last: list[ProofError] = []

    def settled() -> pattern.Sighting | None:
        try:
            return pattern.require_exact(
                screenshot(scene.machine, scene.folder / f"{name}.png"),
                screen["width"],
                screen["height"],
                screen["stream"],
                screen["frame"],
            )
        except ProofError as error:
            last[:] = [error]
            return None

    try:
        return wait_until(settled, 20, "the DomU's frame on Dom0's screen")
    except TimeoutError as error:
        raise ProofError(f"{last[0]} (for 20 s)") from error


def wait_until_gone(scene: Scene, domid: int) -> None:
    """Wait until neither Xen (no zombie) nor the backend has a destroyed domain any more."""
    scene.domu.forget()

    def gone() -> bool:
        return all(d["domid"] != domid for d in scene.dom0.domains()) and all(
            d["domid"] != domid for d in scene.dom0.status()["domains"]
        )

    wait_until(gone, RELEASE_SECONDS, f"domain {domid} and its state in the backend to vanish")
