# SPDX-License-Identifier: MIT
"""``make view``: a kiosk with a guest's desktop on its screen, for a person with keyboard and mouse."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from . import machine
from .cache import say
from .display import DomU
from .errors import TestbedError

_WINDOWS = ("gtk", "sdl", "cocoa")
_FIRST_VNC, _LAST_VNC = 5900, 5999


def _has_window() -> str:
    """QEMU's display that opens a window here; "" if there is none."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return ""
    done = subprocess.run(
        ["qemu-system-aarch64", "-display", "help"], capture_output=True, text=True, check=False
    ).stdout.split()
    return next((name for name in _WINDOWS if name in done), "")


def _free_vnc() -> int:
    """The number of a VNC display that nobody listens at."""
    for port in range(_FIRST_VNC, _LAST_VNC):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port - _FIRST_VNC
    raise TestbedError(f"the ports {_FIRST_VNC} to {_LAST_VNC} of 127.0.0.1 are all in use: end a VNC server")


def choose_display() -> tuple[tuple[str, ...], str]:
    """QEMU's options, and what to tell the person."""
    window = _has_window()
    if window:
        return ("-display", window), "look at QEMU's window"
    number = _free_vnc()
    return (
        ("-display", "none", "-vnc", f"127.0.0.1:{number}"),
        f"connect a VNC viewer to 127.0.0.1:{number} (port {_FIRST_VNC + number})",
    )


def run(folder: Path) -> None:
    """Boot, start the guest's desktop, wait for Enter (or the end of the input)."""
    images = machine.build()
    display, words = choose_display()
    with machine.boot(images, folder, display=display) as (qemu, dom0):
        say(f"Dom0 is up: {words}")
        machine.kiosk(dom0)
        domu = DomU(qemu, dom0)
        say("the guest boots")
        domu.boot()
        domu.start_weston()
        domu.start_terminal()
        print(
            f"The guest's terminal fills the screen: {words}, and type.\n"
            f"Dom0:   {' '.join(dom0.ssh_command())}\nguest:  {' '.join(domu.ssh_command())}\n"
            "Press Enter to end the machine.",
            flush=True,
        )
        sys.stdin.readline()
