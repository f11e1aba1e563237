# SPDX-License-Identifier: MIT
"""One QEMU process running Xen and Dom0; it dies with this process and cleans up after itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from qemu.qmp.legacy import QEMUMonitorProtocol

from .choice import chosen
from .deadline import wait_until
from .errors import LostVMError, TestbedError

XEN_OPTIONS = "console=dtuart dom0_mem=1536M bootscrub=0 conring_size=4M"
DOM0_OPTIONS = "console=hvc0 root=/dev/vda clk_ignore_unused"
# where the host is busy, a virtual processor that moves loses its timer: docs/testbed.md
MORE_XEN_OPTIONS = "loglvl=info guest_loglvl=info dom0_vcpus_pin"
# the console says when Dom0 is up; mitigations cost most under emulation
MORE_DOM0_OPTIONS = "rw panic=-1 oops=panic loglevel=5 systemd.show_status=1 mitigations=off"
RENDERERS = ("llvmpipe", "softpipe")
"""Mesa's, of Dom0's Weston: without a GPU it takes the first, where it is built with LLVM."""
KERNEL_ADDRESS = 0x49000000
SCREEN = (1280, 800)
# As kas/testimage.yml: room for one window of the usual 640x480. What Dom0's Weston draws and writes into pictures
# costs the tests' time.
TEST_SCREEN = (800, 600)
SERIAL_TAIL = 25
ICOUNT_SHIFT = 1
INSTRUCTION_NS = 1 << ICOUNT_SHIFT
"""Nanoseconds of the guest that an instruction takes where they are counted: 500 million a second."""
KEYS = {" ": "spc", "/": "slash", "-": "minus", ".": "dot", "\n": "ret"}
"""QEMU's names (qapi/ui.json, QKeyCode) of keys that aren't called by their letter."""
DOMU_ADDRESSES = {"domu": "10.0.2.21"}
"""Addresses that the testbed gives to DomUs, by name; QEMU forwards a port to each one's SSH."""


@dataclass(frozen=True)
class Images:
    """What a machine boots: paths of the built products, and what is added to the command lines."""

    xen: Path
    kernel: Path
    dom0: Path
    domu: Path
    xen_options: str = ""
    dom0_options: str = ""


def command_lines() -> tuple[str, str]:
    """Xen's and Dom0's, as the environment chooses: XEN_DMABUF_BOOT=image leaves out what the testbed adds."""
    xen, dom0 = XEN_OPTIONS, DOM0_OPTIONS
    if chosen("XEN_DMABUF_BOOT", ("testbed", "image"), "testbed") == "testbed":
        xen, dom0 = f"{xen} {MORE_XEN_OPTIONS}", f"{dom0} {MORE_DOM0_OPTIONS}"
    renderer = chosen("XEN_DMABUF_RENDERER", RENDERERS, RENDERERS[0])
    if renderer != RENDERERS[0]:
        dom0 += f" systemd.setenv=GALLIUM_DRIVER={renderer}"
    return xen, dom0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Qemu:
    """A running machine; a context manager. Not thread-safe.

    ``folder`` receives ``serial.log`` and ``qemu.log``. ``screen`` is (width, height) in pixels,
    ``display`` QEMU's options for a person to see it, ``outputs`` how many screens there are, of which Linux takes the
    first, of that size, for connected.
    ``icount``: its clock counts instructions, whatever the host does (INSTRUCTION_NS); that takes one CPU.
    """

    def __init__(
        self,
        images: Images,
        folder: Path,
        *,
        screen: tuple[int, int] = SCREEN,
        outputs: int = 1,
        display: tuple[str, ...] = ("-display", "none"),
        memory_mib: int = 4096,
        cpus: int = 2,
        icount: bool = False,
    ) -> None:
        self.images = images
        self.outputs = outputs
        self.display = display
        self.folder = folder
        self.screen = screen
        self.memory_mib = memory_mib
        self.cpus = 1 if icount else cpus
        self.icount = icount
        self.serial_log = folder / "serial.log"
        self.ports = {"dom0": _free_port(), **{name: _free_port() for name in DOMU_ADDRESSES}}
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: QEMUMonitorProtocol | None = None
        self._sockets: Path | None = None

    def _command(self, monitor: Path) -> list[str]:
        forwards = [f"hostfwd=tcp:127.0.0.1:{self.ports['dom0']}-10.0.2.15:22"]
        forwards += [
            f"hostfwd=tcp:127.0.0.1:{self.ports[name]}-{address}:22" for name, address in DOMU_ADDRESSES.items()
        ]
        width, height = self.screen
        xen_options, dom0_options = command_lines()
        return [
            # QEMU must not outlive this process, however that one ends
            "setpriv",
            "--pdeathsig",
            "KILL",
            "qemu-system-aarch64",
            "-M",
            "virt,virtualization=on,gic-version=3",
            "-cpu",
            "cortex-a57",
            "-smp",
            str(self.cpus),
            "-m",
            str(self.memory_mib),
            *(["-icount", f"shift={ICOUNT_SHIFT},sleep=off"] if self.icount else []),
            "-nodefaults",
            *self.display,
            "-no-reboot",
            "-chardev",
            f"file,id=console,path={self.serial_log}",
            "-serial",
            "chardev:console",
            "-qmp",
            f"unix:{monitor},server=on,wait=off",
            "-kernel",
            str(self.images.xen),
            "-append",
            f"{xen_options} {self.images.xen_options}",
            "-device",
            f"guest-loader,addr={KERNEL_ADDRESS:#x},kernel={self.images.kernel},"
            f"bootargs={dom0_options} {self.images.dom0_options}",
            # both may be written to: into snapshots that end with QEMU
            "-drive",
            f"if=none,id=dom0,format=raw,snapshot=on,file={self.images.dom0}",
            "-device",
            "virtio-blk-pci,drive=dom0",
            "-drive",
            f"if=none,id=domu,format=raw,snapshot=on,file={self.images.domu}",
            "-device",
            "virtio-blk-pci,drive=domu",
            "-netdev",
            "user,id=net," + ",".join(forwards),
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
            "-device",
            "virtio-rng-pci",
            "-device",
            f"virtio-gpu-pci,id=gpu,xres={width},yres={height},max_outputs={self.outputs}",
            "-device",
            "virtio-keyboard-pci",
            "-device",
            "virtio-tablet-pci",
        ]

    def __enter__(self) -> Qemu:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="xen-dmabuf-"))
        monitor = self._sockets / "qmp"
        try:
            with open(self.folder / "qemu.log", "wb") as log:
                self._process = subprocess.Popen(
                    self._command(monitor), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            self._connect(monitor)
        except BaseException:
            self.close()
            raise
        return self

    def _connect(self, monitor: Path) -> None:
        assert self._process is not None

        def there() -> bool:
            self.check_alive()
            return monitor.exists()

        wait_until(there, 20, "QEMU's monitor socket")
        self._monitor = QEMUMonitorProtocol(str(monitor))
        try:
            self._monitor.connect()
        except Exception as error:
            # QEMU opens the socket before it has read the rest of its command line
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self.check_alive()
            raise LostVMError(f"QEMU does not answer on its monitor: {error}") from error

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def sockets(self) -> Path:
        """A short private folder for sockets; gone after close()."""
        assert self._sockets is not None
        return self._sockets

    @property
    def pid(self) -> int:
        """QEMU's process number."""
        assert self._process is not None
        return self._process.pid

    def check_alive(self) -> None:
        """Raise LostVMError if QEMU has ended, with its own words and the guest's last lines."""
        if self._process is None or self._process.poll() is None:
            return
        status = self._process.returncode
        reason = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        words = (self.folder / "qemu.log").read_text(errors="replace").strip()
        raise LostVMError(
            f'the virtual machine is lost: QEMU ended with {reason}; see "{self.folder}".'
            f"{chr(10) + words if words else ''}\n{self.serial_tail()}"
        )

    def serial_tail(self) -> str:
        """The last lines of the serial console."""
        if not self.serial_log.exists():
            return ""
        lines = self.serial_log.read_text(errors="replace").splitlines()
        return "\n".join("  | " + line for line in lines[-SERIAL_TAIL:])

    def screenshot(self, target: Path, output: int = 0) -> None:
        """Write what virtio-gpu scans out as PNG: an output of Dom0 as a person would see it."""
        target.unlink(missing_ok=True)
        self._ask(
            f'screenshot "{target}"',
            "screendump",
            filename=str(target.absolute()),
            format="png",
            device="gpu",
            head=output,
        )

    def type(self, text: str) -> None:
        """Press and release the keys of ``text``: small letters, spaces, and what KEYS names."""
        for letter in text:
            self.press(KEYS.get(letter, letter))

    def press(self, *codes: str) -> None:
        """Press keys, by QEMU's names, one after the other, and release them."""
        for down in (True, False):
            for code in codes:
                self._input({"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": code}}})

    def point(self, x: int, y: int) -> None:
        """Move the pointer to the middle of a pixel of the first output, over which Weston lays the tablet."""
        width, height = self.screen
        for axis, value, size in (("x", x, width), ("y", y, height)):
            self._input({"type": "abs", "data": {"axis": axis, "value": (2 * value + 1) * 0x8000 // (2 * size)}})

    def click(self) -> None:
        """Press and release the left button."""
        for down in (True, False):
            self._input({"type": "btn", "data": {"down": down, "button": "left"}})

    def _input(self, event: dict[str, object]) -> None:
        self._ask("input", "input-send-event", events=[event])

    def _ask(self, what: str, command: str, **arguments: object) -> None:
        self.check_alive()
        assert self._monitor is not None
        try:
            self._monitor.cmd(command, **arguments)
        except Exception as error:
            self.check_alive()
            raise TestbedError(f"{what}: {error}") from error

    def close(self) -> None:
        """End QEMU; does nothing when it has ended."""
        if self._monitor is not None:
            with contextlib.suppress(Exception):
                self._monitor.close()
            self._monitor = None
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None


def require_qemu() -> None:
    """Raise if QEMU is not installed."""
    if shutil.which("qemu-system-aarch64", path=os.environ.get("PATH")) is None:
        raise TestbedError('qemu-system-aarch64 is not installed; run "make host-packages" as root')
