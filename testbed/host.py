# SPDX-License-Identifier: MIT
"""The host's packages: named, installed where that is possible, otherwise explained."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from . import process
from .cache import say
from .errors import TestbedError

TESTBED = (
    # the virtual machine
    "qemu-system-arm",
    "ipxe-qemu",
    "openssh-client",
    # Dom0's and the DomU's root, without a foreign chroot
    "mmdebstrap",
    "e2fsprogs",
    "debian-archive-keyring",
    "qemu-user-static",
    # the arm64 kernel and the C clients
    "gcc-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
    "gcc",
    "libc6-dev",
    "make",
    "flex",
    "bison",
    "bc",
    "libssl-dev",
    "libelf-dev",
    "xz-utils",
    "ccache",
    "patch",
    "rsync",
    "kmod",
    "cpio",
    "perl",
    # the patched Xen
    "dpkg-dev",
    "python3",
)
"""Packages of Debian 12 that whatever boots the virtual machine needs."""

TESTS = (
    # the backend's unit tests run against a real Weston, the layer's compile the device tree
    "weston",
    "device-tree-compiler",
    # on an X server without a screen, where somebody types; and compare their numbers with Xen's headers
    "xvfb",
    "xdotool",
    "libxen-dev",
    # and against other compositors, where they are small: mutter and kwin-wayland aren't
    "sway",
    "cage",
    "xwayland",  # without which cage ends at once, and on which its package doesn't depend
    "grim",
    # the manual pages' syntax
    "mandoc",
    # and import systemd-python, which pip compiles (requirements-native.txt)
    "libsystemd-dev",
    "pkg-config",
    "python3-dev",
)
"""What `make test` and `make fuzz` need besides."""


def missing(packages: Sequence[str]) -> list[str]:
    """Names of packages that dpkg does not list as installed."""
    try:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages],
            text=True,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise TestbedError(
            "dpkg-query is not here: the testbed runs on Debian 12 or newer, elsewhere in the Containerfile's"
        ) from error
    present = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in packages if name not in present]


def require_root() -> None:
    """Building file systems with root-owned files needs root."""
    if os.geteuid() != 0:
        raise TestbedError("the testbed builds root file systems: run it as root (sudo make …)")


def install(packages: Sequence[str]) -> None:
    """Install what is missing of them by apt, saying what."""
    names = missing(packages)
    if not names:
        return
    if os.geteuid() != 0:
        raise TestbedError(
            f"these Debian packages are missing: {' '.join(names)}; run this as root, or apt-get install them"
        )
    say(f"installing from Debian: {' '.join(names)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    process.run(
        ["apt-get", "update"], what="package lists", env=quiet, remedy="is the network there, and is apt configured?"
    )
    process.run(
        ["apt-get", "install", "-y", "--no-install-recommends", *names],
        what="host packages",
        env=quiet,
        remedy="is the network there?",
    )
