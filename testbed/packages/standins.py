# SPDX-License-Identifier: MIT
"""What the product's packages depend on and bitbake did not build here: which part of the guests' Debian stands in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..debianroot import DIST_PACKAGES, UNITS

_LIBRARIES = "usr/lib/aarch64-linux-gnu"
SUITE = "trixie"
"""Whose libraries and Python make layer-build compiles with."""
_STDLIB = "libpython3.13-stdlib"
_PYTHON = "usr/lib/python3.13"


@dataclass(frozen=True)
class StandIn:
    """``by``: Debian's package, or the testbed; ``file``: what of it must be in the root."""

    by: str
    file: str


def _python(*modules: str) -> dict[str, StandIn]:
    """oe-core's parts of Python's library; Debian has it in one."""
    return {f"python3-{module}": StandIn(_STDLIB, f"{_PYTHON}/{_PLACES.get(module, module)}") for module in modules}


_PLACES = {
    "core": "os.py",
    "fcntl": "socket.py",  # the module itself is in Debian's interpreter
    "io": "io.py",
    "mmap": "lib-dynload/mmap.cpython-313-aarch64-linux-gnu.so",
    "numbers": "numbers.py",
    "shell": "shlex.py",
}

STAND_INS = {
    # files and accounts that every package with an account of its own depends on
    "base-files": StandIn("base-files", "etc/debian_version"),
    "base-passwd": StandIn("base-passwd", "etc/passwd"),
    "shadow": StandIn("passwd", "usr/sbin/groupadd"),
    # libraries that bitbake's packages were linked with: of Debian, too, in make layer-build
    "libc6": StandIn("libc6", f"{_LIBRARIES}/libc.so.6"),
    "libdrm2": StandIn("libdrm2", f"{_LIBRARIES}/libdrm.so.2"),
    "libwayland-client0": StandIn("libwayland-client0", f"{_LIBRARIES}/libwayland-client.so.0"),
    "libwayland-server0": StandIn("libwayland-server0", f"{_LIBRARIES}/libwayland-server.so.0"),
    # and those that are loaded by name
    "libatomic": StandIn("libatomic1", f"{_LIBRARIES}/libatomic.so.1"),
    "kbd": StandIn("kbd", "usr/bin/openvt"),
    "libgbm": StandIn("libgbm1", f"{_LIBRARIES}/libgbm.so.1"),
    **_python(
        "asyncio", "core", "ctypes", "fcntl", "io", "json", "logging", "mmap", "numbers", "shell", "tomllib", "xml"
    ),
    "python3-cffi": StandIn("python3-cffi-backend", f"{DIST_PACKAGES}/_cffi_backend.cpython-313-aarch64-linux-gnu.so"),
    "python3-systemd": StandIn("python3-systemd", f"{DIST_PACKAGES}/systemd/daemon.py"),
    "weston": StandIn("weston", "usr/bin/weston"),
    "weston-examples": StandIn("weston", "usr/bin/weston-simple-shm"),
    "xen-tools-python": StandIn("xen-utils-4.20", "usr/lib/xen-4.20/lib/python/xen/__init__.py"),
    "xen-tools-scripts-block": StandIn("xen-utils-common", "etc/xen/scripts/block-common.sh"),
    "xen-tools-scripts-network": StandIn("xen-utils-common", "etc/xen/scripts/vif-common.sh"),
    "xen-tools-xencommons": StandIn("xen-utils-common", f"{UNITS}/xen.service"),
    "xen-tools-xendomains": StandIn("xen-utils-common", f"{UNITS}/xendomains.service"),
    "xen-tools-xl": StandIn("xen-utils-4.20", "usr/lib/xen-4.20/bin/xl"),
}


def absent(root: Path, names: Sequence[str]) -> list[str]:
    """Those of the names whose stand-in isn't in a root."""
    return [name for name in names if not (root / STAND_INS[name].file).exists()]
