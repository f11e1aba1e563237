# SPDX-License-Identifier: MIT
"""Somebody at a desk: a real Weston on an X server without a screen, and xdotool as hands; and guests
that listen, over fakes.FakeXen's pages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from fakes import FakeXen, Weston
from waiting import wait_until

from xen_dmabuf.kbdif import packets
from xen_dmabuf.kbdif.spec import InputSpec

WIDTH, HEIGHT = 320, 240
"""Of each of the two outputs."""
WINDOWS = ("xen-dmabuf.domu.id0", "xen-dmabuf.domu.id1,xen-dmabuf.other.id0")


class Desk(Weston):
    """Weston's kiosk shell with two outputs side by side: the window of domain domu's ``id0`` is fullscreen
    on the left one; that of its ``id1``, or of a domain ``other``, on the right one."""

    def __init__(self, directory) -> None:
        super().__init__(directory)
        self._display = ""
        self._x: subprocess.Popen | None = None
        self._screens: list[str] = []
        self._doing: subprocess.Popen | None = None

    def start(self) -> None:
        reading, writing = os.pipe()
        self._x = subprocess.Popen(
            ["Xvfb", "-r", "-displayfd", str(writing), "-nolisten", "tcp", "-screen", "0", f"{2 * WIDTH}x{HEIGHT}x24"],
            pass_fds=(writing,),
            stderr=subprocess.DEVNULL,
        )
        os.close(writing)
        with open(reading) as said:
            self._display = f":{said.readline().strip()}"
        config = self.directory / "weston.ini"
        config.write_text(
            "[core]\nidle-time=0\n"
            + "".join(
                f"[output]\nname=X{number}\nmode={WIDTH}x{HEIGHT}\napp-ids={windows}\n"
                for number, windows in enumerate(WINDOWS)
            )
        )
        with open(self.directory / "weston.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    "weston",
                    "--backend=x11" if self.version >= 13 else "--backend=x11-backend.so",
                    "--renderer=pixman" if self.version >= 13 else "--use-pixman",
                    f"--config={config}",
                    "--shell=kiosk-shell.so",
                    "--output-count=2",
                    "--socket=wayland-test",
                ],
                env=os.environ | {"XDG_RUNTIME_DIR": str(self.directory), "DISPLAY": self._display},
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, f"Weston's socket, see {self.directory}/weston.log", 30)
        wait_until(self._find_screens, "Weston's two outputs", 30)
        for number, screen in enumerate(self._screens):
            self.do("windowmove", "--sync", screen, str(number * WIDTH), "0")
        self.look_at(0)  # or Weston doesn't give its keyboard to a window that comes

    def _find_screens(self) -> bool:
        names = {
            self._ask("getwindowname", window).strip(): window for window in self._ask("search", "--name", ".*").split()
        }
        self._screens = [window for number in (0, 1) for name, window in names.items() if name.endswith(f"X{number}")]
        return len(self._screens) == 2

    def _ask(self, *words: str) -> str:
        done = subprocess.run(
            ["xdotool", *words], env=os.environ | {"DISPLAY": self._display}, capture_output=True, text=True
        )
        return done.stdout

    def do(self, *words: str) -> None:
        """What xdotool(1) can."""
        subprocess.run(["xdotool", *words], env=os.environ | {"DISPLAY": self._display}, check=True)

    def do_all(self, *lines: str) -> None:
        """As do(), one line after the other by one process: some ms for each, and nobody waits for it."""
        if self._doing is None:
            self._doing = subprocess.Popen(
                ["xdotool", "-"], env=os.environ | {"DISPLAY": self._display}, stdin=subprocess.PIPE, text=True
            )
        assert self._doing.stdin and self._doing.poll() is None, "xdotool has ended"
        self._doing.stdin.write("".join(f"{line}\n" for line in lines))
        self._doing.stdin.flush()

    def stop(self, number: int = 15) -> None:
        if self._doing and self._doing.stdin:
            self._doing.stdin.close()
            self._doing.wait(10)
            self._doing = None
        super().stop(number)
        if self._x:
            self._x.terminate()
            self._x.wait(10)
            self._x = None

    # -- hands

    def point(self, screen: int, x: int, y: int) -> None:
        self.do("mousemove", str(screen * WIDTH + x), str(y))

    def look_at(self, screen: int) -> None:
        """What a window manager does: the X server's keyboard is the output's."""
        self.do("windowfocus", "--sync", self._screens[screen])


@contextlib.contextmanager
def desk():
    """A Desk that is started, for as long as the context is open."""
    for program in ("Xvfb", "xdotool", "weston"):
        if not shutil.which(program):
            pytest.skip(f"LOUD: {program} is not installed; input is NOT tested with a compositor")
    with tempfile.TemporaryDirectory() as folder:
        made = Desk(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()


class Guest:
    """xen-kbdfront's page and port, and what its devices would say: kernel and evdev drop what is no
    change."""

    def __init__(self, xen: FakeXen, name: str, **features: int) -> None:
        (ref,) = xen.allocate(1)
        self._xen = xen
        self.page = xen.page(ref)
        self._words = memoryview(self.page).cast("I")
        self.spec = InputSpec(ref, xen.new_port(), name, name, name if features.get("contacts") else "", **features)
        self.pressed: set[int] = set()
        self.keys: list[tuple[int, bool]] = []
        self.places: list[tuple[int, int]] = []
        self.clicks = 0
        self.motion = [0, 0]
        self.touches: list[tuple[int, ...]] = []
        self.asleep = False

    def close(self) -> None:
        self._words.release()
        self.page.close()

    def read(self) -> bool:
        """All that is there, and notify, as xenkbd's interrupt handler; whether there was something."""
        if self.asleep or self._words[0] == self._words[1]:
            return False
        while self._words[0] != self._words[1]:
            start = 1024 + self._words[0] % 51 * 40
            self._event(bytes(self.page[start : start + 40]))
            self._words[0] = (self._words[0] + 1) & 0xFFFFFFFF
        if self.spec.port in self._xen.bound.values():
            self._xen.kick(self.spec.port)
        return True

    def _event(self, event: bytes) -> None:
        if event[0] == packets.TYPE_KEY:
            (code,) = struct.unpack_from("<I", event, 4)
            assert code <= packets.KEY_MAX
            if (code in self.pressed) is not bool(event[1]):
                self.pressed ^= {code}
                self.keys.append((code, bool(event[1])))
        elif event[0] == packets.TYPE_MTOUCH:
            assert event[2] < max(1, self.spec.contacts)
            self.touches.append((event[1], event[2], *struct.unpack_from("<2i", event, 8)))
        else:
            x, y, z = struct.unpack_from("<3i", event, 4)
            self.clicks += z
            if event[0] == packets.TYPE_POS:
                self.places.append((x, y))
            else:
                self.motion = [self.motion[0] + x, self.motion[1] + y]
