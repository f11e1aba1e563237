# SPDX-License-Identifier: MIT
"""The product out of this repository: what the layer's recipes would package is copied and compiled here."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from oeqa.runtime.cases.xen_dmabuf_zerocopy import XenDmabufZeroCopyTest

from . import cache, cross, debianroot, guest_programs, layout, process, product
from .debianroot import DIST_PACKAGES, UNITS
from .errors import TestbedError
from .product import DOM0, KIOSK

_PYWAYLAND = {"trixie": "pywayland==0.4.18", "forky": "pywayland==0.4.19"}
"""PyPI's wheel of the version that a suite packages; Debian's package has the core protocol only."""
PROTOCOLS = ("linux_dmabuf_v1", "xdg_shell", "presentation_time", "viewporter")
_BOTH = (layout.WESTON, layout.WESTON_INIT, layout.BACKEND / "src", layout.BACKEND / "tests")
_FILES = {
    DOM0: (
        *_BOTH,
        layout.GUEST,
        layout.BACKEND / "data",
        layout.BACKEND / "pyproject.toml",
        layout.BACKEND / "pump_build.py",
        layout.BACKEND / "setup.py",
    ),
    product.DOMU: (*_BOTH, layout.PATTERN),
}


class Sources:
    """The product of the files here."""

    stage = ""
    cases = XenDmabufZeroCopyTest
    claims: tuple[tuple[str, str], ...] = ()
    origin = ("The product's files were copied and compiled from this repository by the testbed, not packaged.",)

    def inputs(self, side: str) -> dict[str, str]:
        modules = [Path(module.__file__ or "") for module in (cross, guest_programs)]
        return {
            "product": cache.digest([*_FILES[side], *modules, Path(__file__)]),
            "pywayland": _PYWAYLAND[debianroot.suite()],
        }

    def install(self, side: str, root: Path) -> None:
        debianroot.overlay(root, layout.WESTON_INIT)
        debianroot.enable(root, {"weston.service": "graphical.target", "weston.socket": "sockets.target"})
        if side == DOM0:
            _dom0(root)
        else:
            _domu(root)


def _dom0(root: Path) -> None:
    _hostile_frontend(root)
    _wayland_protocols(root)
    _backend(root)
    weston_of_dom0(root)
    kiosk(root / KIOSK)
    (root / "etc/xen").mkdir(exist_ok=True)
    shutil.copy(layout.GUEST_CONFIG, root / "etc/xen/domu.cfg")
    network(root)
    debianroot.enable(root, {"xen-dmabuf-backend.service": "multi-user.target"})


def _domu(root: Path) -> None:
    guest_programs.build_pattern(root.parent, root / "usr/bin/xen-dmabuf-pattern")
    (root / "usr/lib/xen-dmabuf").mkdir()
    shutil.copy(layout.PATTERN / "pattern-init", root / "usr/lib/xen-dmabuf/pattern-init")
    _hostile_frontend(root)
    _backend_library(root)
    weston_of_domu(root)


def _backend(root: Path) -> None:
    """Install the backend as its recipe does: the wheel, and what the Makefile of backend/data installs."""
    target = root / DIST_PACKAGES
    work = root.parent / "pip"
    # setuptools takes along what an earlier build of another state of the tree has left here
    shutil.rmtree(layout.BACKEND / "build", ignore_errors=True)
    # no code of this machine's in it
    _pip(
        *("--no-build-isolation", "--target", str(work), str(layout.BACKEND)),
        what="backend package",
        env={"XEN_DMABUF_PUMP": "none"},
    )
    for script in (work / "bin").iterdir():
        text = script.read_text(encoding="utf-8").split("\n", 1)[1]
        (root / "usr/bin" / script.name).write_text("#!/usr/bin/python3\n" + text, encoding="utf-8")
        (root / "usr/bin" / script.name).chmod(0o755)
    shutil.rmtree(work / "bin")
    shutil.copytree(work, target, dirs_exist_ok=True)
    shutil.rmtree(work)
    guest_programs.build_pump(root.parent, target / "xen_dmabuf/pump/_pump.abi3.so")
    process.run(["make", "-C", str(layout.BACKEND / "data"), "install", f"DESTDIR={root}"], what="the backend's files")
    debianroot.byte_compile(root, target / "xen_dmabuf", target / "pywayland/protocol")


def _pip(*words: str, what: str, remedy: str = "", env: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", *words]
    process.run(command, what=what, remedy=remedy, env=env)


def _hostile_frontend(root: Path) -> None:
    """The backend's tests where xen-dmabuf-backend-ptest has them: on_xen.py runs in Dom0 and in a DomU."""
    shutil.copytree(
        layout.BACKEND / "tests", root / layout.PTEST / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )


def _backend_library(root: Path) -> None:
    """What those tests import in a DomU: the backend's modules, without its program, units and Wayland."""
    target = root / DIST_PACKAGES / "xen_dmabuf"
    not_needed = shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.so")
    shutil.copytree(layout.BACKEND / "src/xen_dmabuf", target, ignore=not_needed)
    debianroot.byte_compile(root, target)


def _wayland_protocols(root: Path) -> None:
    """Protocol modules that Debian's pywayland lacks."""
    work = root.parent / "wheel"
    wheel = _PYWAYLAND[debianroot.suite()]
    _pip("--target", str(work), wheel, what=wheel, remedy="is PyPI reachable?")
    copy_protocols(work / "pywayland/protocol", root / DIST_PACKAGES / "pywayland/protocol")
    shutil.rmtree(work)


def copy_protocols(source: Path, target: Path) -> None:
    """PROTOCOLS from one folder into another: a package each in pywayland up to 0.4.18, then a module."""
    for protocol in PROTOCOLS:
        if (source / protocol).is_dir():
            shutil.copytree(source / protocol, target / protocol, dirs_exist_ok=True)
        elif (source / f"{protocol}.py").is_file():
            shutil.copy(source / f"{protocol}.py", target)
        else:
            raise TestbedError(f'"{source}" has no protocol "{protocol}": does this pywayland call it otherwise?')


def weston_of_dom0(root: Path) -> None:
    """What xen-dmabuf-weston-dom0, -force-renderer and -restart package."""
    _weston(root, "dom0.ini", ("dom0.conf", "force-renderer.conf"))
    _weston_restarts(root)


def weston_of_domu(root: Path) -> None:
    """What xen-dmabuf-weston-domu and -restart package."""
    _weston(root, "domu.ini", ("domu.conf",))
    _weston_restarts(root)
    rules = root / "usr/lib/udev/rules.d"
    rules.mkdir(parents=True, exist_ok=True)
    shutil.copy(layout.WESTON / "60-xen-dmabuf-input.rules", rules)


def _weston(root: Path, configuration: str, drop_ins: tuple[str, ...]) -> None:
    """Weston's configuration where the layer's packages put it."""
    folder = root / "etc/xen-dmabuf" / configuration.removesuffix(".ini") / "weston"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(layout.WESTON / configuration, folder / "weston.ini")
    units = root / UNITS / "weston.service.d"
    units.mkdir(parents=True, exist_ok=True)
    for name in drop_ins:
        shutil.copy(layout.WESTON / name, units / f"xen-dmabuf-{name}")


def _weston_restarts(root: Path) -> None:
    """What xen-dmabuf-weston-restart packages."""
    for unit, name in (("service", "restart.conf"), ("socket", "restart-socket.conf")):
        folder = root / UNITS / f"weston.{unit}.d"
        folder.mkdir(exist_ok=True)
        shutil.copy(layout.WESTON / name, folder / "xen-dmabuf-restart.conf")


def network(root: Path) -> None:
    """What xen-dmabuf-guest-network packages."""
    folder = root / "usr/lib/systemd/network"
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in ((10, "xenbr0.netdev"), (10, "xenbr0.network"), (11, "xenbr0-port.network")):
        shutil.copy(layout.GUEST / name, folder / f"{number}-{name}")


def kiosk(root: Path) -> None:
    """What xen-dmabuf-weston-kiosk packages."""
    _weston(root, "kiosk.ini", ("kiosk.conf",))
    folder = root / "etc/xen-dmabuf/backend.toml.d"
    folder.mkdir()
    shutil.copy(layout.WESTON / "kiosk.toml", folder)
