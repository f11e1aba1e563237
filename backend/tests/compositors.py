# SPDX-License-Identifier: MIT
"""Real compositors without a display, each in a folder of its own. They have no GPU: shared memory only.

sway and cage refuse to run as root, so root starts all of them as another user. Weston is in fakes.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from waiting import wait_until

_NOBODY = 65534
_SWAY = """\
default_border none
xwayland disable
output * resolution 1280x800
for_window [app_id="^xen-dmabuf\\.above\\."] floating enable, move absolute position 100 100
"""


def _sway(folder: Path) -> Sequence[str]:
    (folder / "config").write_text(_SWAY)
    return "sway", "-c", f"{folder}/config"


def _cage(_folder: Path) -> Sequence[str]:
    return "cage", "--", "sleep", "3600"  # it ends with its client


def _mutter(_folder: Path) -> Sequence[str]:
    options = "--headless", "--wayland", "--no-x11", "--virtual-monitor", "800x600", "--wayland-display", "wayland-0"
    return "dbus-run-session", "--", "mutter", *options


def _kwin(folder: Path) -> Sequence[str]:
    # a copy: the capability that Debian's file has may be more than a container has, which execve() refuses
    shutil.copyfile(shutil.which("kwin_wayland") or "", folder / "kwin_wayland")
    (folder / "kwin_wayland").chmod(0o755)
    options = "--virtual", "--width", "800", "--height", "600", "--no-lockscreen", "--no-global-shortcuts"
    return "dbus-run-session", "--", f"{folder}/kwin_wayland", *options, "--no-kactivities", "--socket", "wayland-0"


_WLROOTS = {"WLR_BACKENDS": "headless", "WLR_RENDERER": "pixman", "WLR_LIBINPUT_NO_DEVICES": "1"}


@dataclass(frozen=True)
class Kind:
    """How to run a compositor: ``command(folder)``, of Debian's ``package``; ``needs``: programs."""

    package: str
    needs: Sequence[str]
    command: Callable[[Path], Sequence[str]]
    environment: dict[str, str]
    captures: bool = False
    """Whether it lets clients have the screen (wlr-screencopy)."""


KINDS = {
    "sway": Kind("sway", ["sway"], _sway, _WLROOTS, captures=True),
    "cage": Kind("cage, xwayland", ["cage", "Xwayland"], _cage, _WLROOTS, captures=True),
    "mutter": Kind("mutter", ["mutter", "dbus-run-session"], _mutter, {}),
    "kwin": Kind("kwin-wayland", ["kwin_wayland", "dbus-run-session"], _kwin, {"KWIN_COMPOSE": "Q"}),
}


class Headless:
    """A compositor; start() and kill() may be repeated. ``close()`` in the end."""

    def __init__(self, name: str, outputs: int = 1) -> None:
        """``outputs``: of a compositor of wlroots, which calls them HEADLESS-1 and so on."""
        self.name, self.kind = name, KINDS[name]
        self.folder = Path(tempfile.mkdtemp(prefix=f"xen-dmabuf-{name}-"))
        self._user: dict = {}
        if os.geteuid() == 0:
            self._user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(self.folder, _NOBODY, _NOBODY)
        kept = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
        ours = {"XDG_RUNTIME_DIR": str(self.folder), "HOME": str(self.folder)}
        self._environment = kept | ours | self.kind.environment | {"WLR_HEADLESS_OUTPUTS": str(outputs)}
        self._process: subprocess.Popen | None = None
        self.socket = ""

    def start(self) -> None:
        command = self.kind.command(self.folder)
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # kill() ends what it starts, too
                **self._user,
            )
        wait_until(self._answers, f"{self.name}'s socket; it says {self.log()!r}", 20)

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, f"{self.name} ended: {self.log()}"
        for path in self.folder.glob("wayland-?"):
            with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
                client.connect(str(path))
                self.socket = str(path)
                return True
        return False

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sway(self, *words: str) -> None:
        """A command of sway's."""
        (path,) = self.folder.glob("sway-ipc.*.sock")
        command = "swaymsg", "--socket", str(path), "--", *words
        subprocess.run(command, env=self._environment, capture_output=True, timeout=20, check=True)

    def screen(self, output: str = "") -> Screen:
        """What it shows, on all outputs or one; only where it captures."""
        environment = self._environment | {"WAYLAND_DISPLAY": self.socket}
        command = "grim", *(("-o", output) if output else ()), "-t", "ppm", "-"
        done = subprocess.run(command, env=environment, capture_output=True, timeout=20, check=True)
        magic, size, most, pixels = done.stdout.split(b"\n", 3)
        assert (magic, most) == (b"P6", b"255")
        width, height = map(int, size.split())
        return Screen(width, height, pixels)


@dataclass(frozen=True)
class Screen:
    width: int
    height: int
    pixels: bytes

    def at(self, x: int, y: int) -> bytes:
        """Red, green, blue."""
        start = 3 * (y * self.width + x)
        return self.pixels[start : start + 3]

    def box(self, colour: bytes) -> tuple[int, int, int, int]:
        """x, y, width and height of what has a colour, on both lines through the middle of the screen."""
        across = [x for x in range(self.width) if self.at(x, self.height // 2) == colour]
        down = [y for y in range(self.height) if self.at(self.width // 2, y) == colour]
        return (across[0], down[0], len(across), len(down)) if across and down else (0, 0, 0, 0)
