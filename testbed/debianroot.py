# SPDX-License-Identifier: MIT
"""The guests' Debian: packages unpacked into a root without their maintainer scripts: no foreign chroot is needed.

What those scripts would do and we need (accounts, links, Python byte code) is done here. Which Debian it is the
environment chooses: its suites have the versions of Weston, Mesa, systemd and Python that images of today and
tomorrow have.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from . import cache, process
from .choice import chosen
from .debian import SUITE, Archive

ENVIRONMENT = "XEN_DMABUF_SUITE"
_PYTHONS = {"trixie": "3.13", "forky": "3.14"}
"""Of each suite that is known."""

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
    # of weston-init: a session of logind's, a terminal
    "libpam-systemd",
    "kbd",
]
DOM0_PACKAGES = [
    "xen-utils-4.20",
    "xen-utils-common",
    "dpkg",  # start-stop-daemon, of Debian's init script of Xen
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
DIST_PACKAGES = "usr/lib/python3/dist-packages"
EMULATOR = "qemu-aarch64-static"
UNITS = "usr/lib/systemd/system"
PRESETS = "usr/lib/systemd/system-preset"


def suite() -> str:
    """Debian's name of the release that Dom0 and DomUs are made of. Raises TestbedError: it isn't known."""
    return chosen(ENVIRONMENT, _PYTHONS, SUITE)


def python() -> str:
    """The version of its Python: major and minor number."""
    return _PYTHONS[suite()]


def stage() -> str:
    """What the names of the cache's products begin with that are of this suite, so that none drops another's."""
    return "" if suite() == SUITE else f"{suite()}-"


def bootstrap(name: str, packages: list[str]) -> Path:
    """The folder of a Debian root ("root") with its links and byte code made."""

    def build(folder: Path) -> None:
        archive = Archive(suite())
        archive.update()
        archive.bootstrap(packages, folder / "root")
        root = folder / "root"
        for unused in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt"):
            shutil.rmtree(root / unused, ignore_errors=True)
        for database in ("passwd", "group"):
            shutil.copy(root / f"usr/share/base-passwd/{database}.master", root / "etc" / database)
        _alternatives(root)
        _pam(root)
        accounts(root)
        if (root / "usr/bin/python3").exists():
            byte_compile(root, root / f"usr/lib/python{python()}", root / DIST_PACKAGES)

    inputs = {"packages": " ".join(packages), "suite": suite(), "recipe": cache.digest([Path(__file__)])}
    return cache.stage(f"{stage()}{name}-packages", inputs, build)


def emulated(root: Path, program: str) -> list[str]:
    """Command line that runs an arm64 program of a root here, by QEMU's user emulation."""
    return [EMULATOR, "-L", str(root), str(root / "usr/bin" / program)]


def byte_compile(root: Path, *folders: Path) -> None:
    """Compile a guest's Python here: under emulation it would do so at every start."""
    # not -x: it would look for its pattern in the whole path, which has "testbed" in it
    process.run(
        [*emulated(root, "python3"), "-m", "compileall", "-q", "-s", str(root), *map(str, folders)],
        what="Python byte code",
    )


def _pam(root: Path) -> None:
    """What Debian's services include, as pam-auth-update would write it where there is nothing but accounts."""
    for stack in ("account", "auth", "password", "session", "session-noninteractive"):
        kind = stack.split("-")[0]
        (root / f"etc/pam.d/common-{stack}").write_text(f"{kind} required pam_unix.so\n", encoding="utf-8")


def accounts(root: Path) -> None:
    """Create those that sysusers.d of a root declares, as far as they aren't there."""
    # in the root, not with --root=: 262 follows that path itself, which no emulator translates for it
    emulator = Path(shutil.copy(f"/usr/bin/{EMULATOR}", root / "tmp"))
    process.run(["chroot", str(root), f"/tmp/{emulator.name}", "/usr/bin/systemd-sysusers"], what="users")
    emulator.unlink()


def overlay(root: Path, folder: Path) -> None:
    """Copy a folder of this repository over the root, keeping modes, owned by root."""
    process.run(
        ["cp", "-r", "--preserve=mode,links", "--no-preserve=ownership", f"{folder}/.", str(root)],
        what=f"overlay {folder.name}",
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
