# SPDX-License-Identifier: MIT
"""The guests' Debian: packages unpacked into a root without their maintainer scripts: no foreign chroot is needed.

What those scripts would do and we need (accounts, links, Python byte code) is done here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from . import cache, process
from .debian import SUITE, Archive

BASE_PACKAGES = [
    "base-files",
    "base-passwd",
    "bash",
    "bsdutils",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "libc-bin",
    "login",
    "mawk",
    "mount",
    "ncurses-base",
    "passwd",
    "sed",
    "sysvinit-utils",
    "tar",
    "util-linux",
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "openssh-server",
    "iproute2",
    "kmod",
    "procps",
    "seatd",
    "weston",
]
DOM0_PACKAGES = [
    "xen-utils-4.20",
    "xen-utils-common",
    "xenstore-utils",
    "libxengnttab1",
    "libxenevtchn1",
    "python3",
    "python3-pywayland",
    "python3-cffi-backend",
    "python3-systemd",
    "libatomic1",
    "libgl1-mesa-dri",
    "libegl1",
    "libgles2",
    "libgbm1",
    "libegl-mesa0",
    "drm-info",
    "wayland-utils",
]
DOMU_PACKAGES = [
    "libdrm2",
    "python3",
    "xen-utils-4.20",  # the hostile frontend (backend/tests/on_xen.py) and Xen's binding of XenStore
]
PYTHON = "usr/lib/python3.13"
DIST_PACKAGES = "usr/lib/python3/dist-packages"
UNITS = "usr/lib/systemd/system"


def bootstrap(name: str, packages: list[str]) -> Path:
    """The folder of a Debian root ("root") with its links and byte code made."""

    def build(folder: Path) -> None:
        archive = Archive()
        archive.update()
        archive.bootstrap(packages, folder / "root")
        root = folder / "root"
        for unused in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt"):
            shutil.rmtree(root / unused, ignore_errors=True)
        for database in ("passwd", "group"):
            shutil.copy(root / f"usr/share/base-passwd/{database}.master", root / "etc" / database)
        _alternatives(root)
        if (root / "usr/bin/python3").exists():
            byte_compile(root, root / PYTHON, root / DIST_PACKAGES)

    inputs = {"packages": " ".join(packages), "suite": SUITE, "recipe": cache.digest([Path(__file__)])}
    return cache.stage(f"{name}-packages", inputs, build)


def emulated(root: Path, program: str) -> list[str]:
    """Command line that runs an arm64 program of a root here, by QEMU's user emulation."""
    return ["qemu-aarch64-static", "-L", str(root), str(root / "usr/bin" / program)]


def byte_compile(root: Path, *folders: Path) -> None:
    """Compile a guest's Python here: under emulation it would do so at every start."""
    # not -x: it would look for its pattern in the whole path, which has "testbed" in it
    process.run(
        [*emulated(root, "python3"), "-m", "compileall", "-q", "-s", str(root), *map(str, folders)],
        what="Python byte code",
    )


def _alternatives(root: Path) -> None:
    """Links that update-alternatives would make and Xen's hotplug scripts call."""
    for name, target in {"awk": "mawk", "which": "which.debianutils"}.items():
        (root / "usr/bin" / name).symlink_to(target)


def enable(root: Path, wants: dict[str, str]) -> None:
    """Enable units as their [Install] sections say: unit -> target."""
    for unit, target in wants.items():
        folder = root / f"etc/systemd/system/{target}.wants"
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / unit
        if not link.is_symlink():
            link.symlink_to(f"/{UNITS}/{unit}")
