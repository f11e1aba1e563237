# SPDX-License-Identifier: MIT
"""A Weston whose screen can be read: on an X server without a display, which keeps its pixels in a file."""

from __future__ import annotations

import os
import struct
import subprocess

from compositors import Screen
from fakes import Weston
from waiting import wait_until

WIDTH, HEIGHT = 640, 480
BACKGROUND = bytes((0x20, 0x40, 0x60))
"""Of Weston's desktop shell, as configured here."""
_DESKTOP = f"""\
[core]
idle-time=0
[shell]
background-color=0xff{BACKGROUND.hex()}
panel-position=none
locking=false
animation=none
startup-animation=none
"""
_ICONS = "/usr/share/weston"
# hmi-controller begins with nothing less; 1000 and 2000 and so on are its layers
_IVI = f"""\
[core]
idle-time=0
shell=ivi-shell.so
modules=hmi-controller.so
[ivi-shell]
ivi-shell-user-interface=weston-ivi-shell-user-interface
background-id=1001
background-image={_ICONS}/background.png
panel-id=1002
panel-image={_ICONS}/panel.png
surface-id-offset=10
tiling-id=1003
tiling-image={_ICONS}/tiling.png
sidebyside-id=1004
sidebyside-image={_ICONS}/sidebyside.png
fullscreen-id=1005
fullscreen-image={_ICONS}/fullscreen.png
random-id=1006
random-image={_ICONS}/random.png
home-id=1007
home-image={_ICONS}/home.png
workspace-background-id=2001
workspace-background-color=0x99000000
"""
_STARTING = "wayland-starting"
PANEL = 70
"""Lines at the lower edge that hmi-controller keeps for itself."""


class Seen(Weston):
    """One output of WIDTH x HEIGHT; desktop shell, or ivi-shell with hmi-controller, which tiles what comes."""

    def __init__(self, directory, *, ivi: bool = False) -> None:
        super().__init__(directory)
        self._config = _IVI if ivi else _DESKTOP
        self._x: subprocess.Popen | None = None

    def start(self) -> None:
        display = self._start_x()
        config = self.directory / "weston.ini"
        config.write_text(self._config)
        new = self.version >= 13
        options = "--backend=x11" if new else "--backend=x11-backend.so", "--renderer=pixman" if new else "--use-pixman"
        with open(self.directory / "weston.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    "weston",
                    *options,
                    f"--config={config}",
                    f"--width={WIDTH}",
                    f"--height={HEIGHT}",
                    "--no-input",  # a pointer would be drawn
                    f"--socket={_STARTING}",
                ],
                env=os.environ | {"XDG_RUNTIME_DIR": str(self.directory), "DISPLAY": display},
                stdout=log,
                stderr=log,
            )
        wait_until(self._drawn, f"Weston's shell, see {self.directory}/weston.log", 30)
        # hmi-controller lays out nothing that came before it was ready, until the next surface comes
        os.rename(self.directory / _STARTING, self.socket)

    def _start_x(self) -> str:
        reading, writing = os.pipe()
        options = "-displayfd", str(writing), "-nolisten", "tcp", "-fbdir", str(self.directory)
        self._x = subprocess.Popen(
            ["Xvfb", "-r", *options, "-screen", "0", f"{WIDTH}x{HEIGHT}x24"],
            pass_fds=(writing,),
            stderr=subprocess.DEVNULL,
        )
        os.close(writing)
        with open(reading) as said:
            return f":{said.readline().strip()}"

    def _drawn(self) -> bool:
        screen = self.screen()
        return screen.at(WIDTH // 2, HEIGHT // 3) != bytes(3) and screen.at(WIDTH - 1, HEIGHT - 1) != bytes(3)

    def screen(self) -> Screen:
        """X's dump format (XWDFile.h): numbers of 32 bits, a map of colours, lines of pixels."""
        data = (self.directory / "Xvfb_screen0").read_bytes()
        head = struct.unpack_from(">20I", data)
        start, stride = head[0] + 12 * head[19], head[12]
        pixels = bytearray(3 * WIDTH * HEIGHT)
        for y in range(HEIGHT):
            line = data[start + y * stride : start + y * stride + 4 * WIDTH]
            for channel in range(3):
                pixels[3 * WIDTH * y + channel : 3 * WIDTH * (y + 1) : 3] = line[2 - channel :: 4]
        return Screen(WIDTH, HEIGHT, bytes(pixels))

    def stop(self, *arguments) -> None:
        super().stop(*arguments)
        if self._x:
            self._x.terminate()
            self._x.wait(10)
            self._x = None
