# SPDX-License-Identifier: MIT
"""DomUs of the layer's domu.cfg, driven from Dom0 through their Xen console."""

from __future__ import annotations

import gzip
import json
import re
import shlex

from . import picture
from .dom0 import CONFIGURATION, PAGE, found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .dom0 import Dom0, Json

CONSOLE = "init=/usr/lib/xen-dmabuf/pattern-init"
# a console of the kernel's own shows its framebuffer whenever no program shows one
PATTERN = f"{CONSOLE} drm_kms_helper.fbdev_emulation=0"
SYSTEMD = "systemd.debug_shell=hvc0 systemd.mask=serial-getty@hvc0.service"
PROGRAM = "xen-dmabuf-patt"  # as the kernel has its name
ANSWERS = "until xen-dmabuf-pattern send state > /dev/null 2>&1; do :; done"
BOOT_SECONDS = 180
XENBUS_CONNECTED = "4"  # xen/include/public/io/xenbus.h
_DRIVER = "/sys/bus/xen/drivers/vdispl"
_CONNECTORS = "/sys/class/drm/card*-*/status"


def send_signal(program: str, name: str = "TERM") -> str:
    """The shell command that sends a signal; OpenEmbedded's busybox has no pkill. Nothing to send it to is an error."""
    return f"kill -{name} $(pgrep -x {program})"


class DomU:
    """``stream`` is the number that its frames carry. Not running before create().

    ``stopped`` is its worker's process number where a test has stopped it (SIGSTOP), else 0;
    ``gone`` says that it was seen to be gone.
    """

    def __init__(self, dom0: Dom0, name: str, stream: int) -> None:
        self.dom0 = dom0
        self.name = name
        self.stream = stream
        self.domid = 0
        self.stopped = 0
        self.gone = False
        self._tty = ""

    # -- life

    def create(self, **arguments: Any) -> None:
        """`xl create`; does not wait until it has started. The arguments are creation()'s."""
        self._create(self.creation(**arguments))

    def create_as_configured(self) -> None:
        """The same with nothing but the layer's domu.cfg, as an image starts it at boot."""
        self._create(f"xl create {CONFIGURATION}")

    def _create(self, command: str) -> None:
        output = self.dom0.run(
            f"{command} && domid=$(xl domid {self.name}) && "
            "echo created $domid $(xenstore-read /local/domain/$domid/console/tty)",
            120,
        )
        domid, self._tty = found(r"^created (\d+) (\S+)$", output).groups()
        self.domid = int(domid)
        self.gone = False

    def creation(
        self,
        line: str = PATTERN,
        options: str | None = "--hold",
        size: str = "640x480",
        paused: bool = False,
        **overrides: str,
    ) -> str:
        """The shell command of create(): without network and with a disk that is only read.

        ``options`` are the pattern program's, None: it is not started; ``size`` is the first
        connector's, or several connectors' as vdispl wants them; ``overrides`` go to xl.
        """
        if options is None:
            pattern = "pattern_stopped=1"
        else:
            pattern = "pattern=" + ",".join([*options.split(), "--stream", str(self.stream)])
        connectors = size if ":" in size else f"id0:{size}"
        values = {
            "name": f'"{self.name}"',
            "memory": "256",
            "vif": "[]",
            "disk": self.dom0.disk,
            "on_reboot": '"destroy"',
            "on_crash": '"destroy"',
            "vdispl": f'["backend=Domain-0,be-alloc=0,connectors={connectors}"]',
            "extra": f'"console=hvc0 root=/dev/xvda ro panic=-1 quiet {line} {pattern}"',
            **overrides,
        }
        words = " ".join(shlex.quote(f"{key}={value}") for key, value in values.items())
        return f"xl create {'-p ' if paused else ''}{CONFIGURATION} {words}"

    def start(self, **arguments: Any) -> None:
        """create() and wait for the pattern program."""
        self.create(**arguments)
        self.wait_for_start()

    def wait_for_start(self) -> None:
        """Wait until it has started and the pattern program answers."""
        self.wait_for_shell(ANSWERS)

    def wait_for_shell(self, command: str = "true") -> None:
        """Wait until the shell on the console answers, and run a command there."""
        self._checked(command, *self._ask("boot", command, BOOT_SECONDS))

    def wait_for_pattern(self) -> None:
        """Wait until the pattern program answers."""
        self.run(ANSWERS, 90)

    def destroy(self) -> None:
        """`xl destroy` if it is there."""
        if not self.gone:
            self.dom0.try_run(f"xl destroy {self.name}", 60)

    def try_run(self, command: str, seconds: float = 30) -> tuple[int, str]:
        """(status, output) of a shell command in the DomU."""
        return self._ask("console", command, seconds)

    def run(self, command: str, seconds: float = 30) -> str:
        """The output of a shell command in the DomU that must succeed."""
        return self._checked(command, *self.try_run(command, seconds))

    def _ask(self, what: str, command: str, seconds: float) -> tuple[int, str]:
        return self.dom0.ask(what, self._tty, seconds, command, timeout=seconds + 30)

    def _checked(self, command: str, status: int, output: str) -> str:
        if status:
            raise AssertionError(f"{self.name}: `{command}` ended with {status}:\n{output}")
        return output

    # -- the pattern

    def send(self, command: str, seconds: float = 60) -> Json:
        """The pattern program's answer to a command."""
        answer: Json = json.loads(self.run(f"xen-dmabuf-pattern send '{command}'", seconds))
        if "error" in answer:
            raise AssertionError(f"{self.name}: pattern program, `{command}`: {answer['error']}")
        return answer

    def screens(self, command: str = "state", seconds: float = 60) -> list[Json]:
        """The state of all its screens after a command."""
        screens: list[Json] = self.send(command, seconds)["screens"]
        return screens

    def stop_pattern(self) -> None:
        """End the pattern program without waiting; it is not started again."""
        self.run(f"touch /run/pattern.stop; {send_signal(PROGRAM)} || true")

    def end_pattern(self) -> None:
        """stop_pattern(), and wait for its end."""
        self.stop_pattern()
        self.run("while pgrep -x xen-dmabuf-patt; do :; done", 60)

    def run_pattern(self, options: str) -> None:
        """Run the pattern program with other options in its place, until stop_pattern()."""
        self.end_pattern()
        self.run(f"xen-dmabuf-pattern run {options} --stream {self.stream} < /dev/null > /dev/null 2>&1 &")
        self.wait_for_pattern()

    def program(self) -> int:
        """The pattern program's process number: another one has noticed that its screen was unplugged."""
        return int(self.run("pgrep -x xen-dmabuf-patt || echo 0"))

    def plugged(self) -> list[str]:
        """What its kernel says of each connector when it is asked anew: mainline's driver takes a flip that was
        answered too late for an unplugged screen, and a program that doesn't ask goes on flipping."""
        return self.run(f"for connector in {_CONNECTORS}; do echo detect > $connector; cat $connector; done").split()

    def resume_pattern(self) -> None:
        """Let the pattern program start again."""
        self.run("rm -f /run/pattern.stop")

    def grab(self) -> picture.Picture:
        """What is in the framebuffer that its first connector shows, whoever drew it."""
        text = self.run("xen-dmabuf-pattern grab > /tmp/grab && gzip -c /tmp/grab | od -An -v -tx1 | tr -d ' \\n'", 60)
        head, _, data = gzip.decompress(bytes.fromhex(text)).partition(b"\n")
        *size, fourcc = head.decode().split()
        if fourcc != "XR24":
            raise AssertionError(f"{self.name}: the framebuffer is {fourcc}, only XR24 is read here")
        width, height, pitch = map(int, size)
        return [picture.of_xrgb8888(data[y * pitch : y * pitch + 4 * width]) for y in range(height)]

    # -- the driver of its first device

    def unbind(self) -> None:
        """Take the device from its driver, whatever uses it."""
        self.run(f"echo vdispl-0 > {_DRIVER}/unbind", 60)

    def bind(self) -> None:
        """Give it back: the driver reads what XenStore says by now."""
        self.run(f"echo vdispl-0 > {_DRIVER}/bind", 60)

    def unbind_others(self) -> None:
        """Leave it its first device only, whether the others have connected yet or not.

        The window of each connector stays as long as that is connected.
        """
        self.run(f"for device in {_DRIVER}/vdispl-[1-9]; do basename $device > {_DRIVER}/unbind; done", 60)

    # -- in Dom0

    def backend(self) -> Json | None:
        """Its part of the backend's state; None if the backend doesn't know it."""
        return next((d for d in self.dom0.status()["domains"] if d["domid"] == self.domid), None)

    def state(self) -> Json:
        """The same; AssertionError if the backend doesn't know it."""
        return self._required(self.backend())

    def known(self) -> Json | None:
        """backend() without what only its worker knows, which is not asked: it may be stopped."""
        return next((d for d in self.dom0.known() if d["domid"] == self.domid), None)

    def worker(self) -> int:
        """Its worker's process number; AssertionError if the backend doesn't know it."""
        return int(self._required(self.known())["pid"])

    def _required(self, state: Json | None) -> Json:
        if state is None:
            raise AssertionError(f"{self.name}: the backend doesn't know domain {self.domid}")
        return state

    @property
    def unit(self) -> str:
        """Its worker's unit."""
        return f"xen-dmabuf-worker@{self.domid}.service"

    def wait_for_worker(self, old: int, seconds: float = 120) -> None:
        """Wait for another worker than process ``old``; the service may be starting."""
        status, output = self.dom0.ask("worker", seconds, self.domid, old, timeout=seconds + 30)
        if status:
            raise AssertionError(f"{self.name}: another worker than {old}: {output}")

    def interruption(self) -> float:
        """Seconds from the end of its last worker, as systemd saw it, until the present one had answered the flips that
        were open: it says when, or, where none was, it served from the end of its start on."""
        times = ("ActiveExitTimestampMonotonic", "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        asked = self.dom0.run(f"systemctl show {self.unit} -p {','.join(times)},MainPID")
        values = dict(line.split("=", 1) for line in asked.split())
        ended, began, served = (int(values[name]) / 1e6 for name in times)
        log = self.dom0.journal(f"_PID={values['MainPID']}")
        answered = re.search(r"flips of the last process answered .*after=\"?([\d.]+) s", log)
        return (began + float(answered[1]) if answered else served) - ended

    def frontends(self) -> dict[str, set[str]]:
        """The states (enum xenbus_state) of its frontends, by their kind."""
        devices = f"/local/domain/{self.domid}/device"
        output = self.dom0.run(
            f"for kind in $(xenstore-list {devices}); do for id in $(xenstore-list {devices}/$kind); do "
            f"echo $kind $(xenstore-read {devices}/$kind/$id/state); done; done"
        )
        states: dict[str, set[str]] = {}
        for kind, state in re.findall(r"^(\w+) (\d)$", output, re.M):
            states.setdefault(kind, set()).add(state)
        return states

    def buffers(self) -> list[Json]:
        """Its display buffers as the backend has them."""
        return [b for device in (self.backend() or {"devices": []})["devices"] for b in device.get("buffers", [])]

    def flips(self, *counters: str) -> int:
        """Flips that were shown, all connectors; or the sum of other counters of the backend."""
        return sum(
            c[name]
            for device in self.state()["devices"]
            for c in device["connectors"]
            for name in counters or ("flips_shown",)
        )

    def pages(self) -> int:
        """Pages of its framebuffers, by its own account."""
        return sum(-(-s["pitch"] * s["height"] // PAGE) * s["buffers"] for s in self.screens())
