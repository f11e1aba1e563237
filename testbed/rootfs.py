# SPDX-License-Identifier: MIT
"""Dom0's and the DomU's root file systems as ext4 images.

Packages are unpacked without running their maintainer scripts (no foreign chroot is needed);
what those scripts would do and we need (users, links, Python byte code) is done here.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from . import cache, cross, guest_programs, keys, layout, process
from .debian import Archive

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
PYWAYLAND = "pywayland==0.4.18"
"""PyPI's wheel of the version that trixie packages; Debian's package has the core protocol only."""
PROTOCOLS = ("linux_dmabuf_v1", "xdg_shell", "presentation_time", "viewporter")
IMAGE_MIB = {"dom0": 1400, "domu": 1000}
DIST_PACKAGES = "usr/lib/python3/dist-packages"


def _bootstrap(name: str, packages: list[str]) -> Path:
    """An unpacked Debian root with its links and byte code made."""

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
        _byte_compile(root)

    return cache.stage(
        f"{name}-packages",
        {"packages": " ".join(packages), "suite": "trixie", "recipe": cache.digest([Path(__file__)])},
        build,
    )


def _emulated(root: Path, program: str) -> list[str]:
    """Command line that runs an arm64 program of a root here, by QEMU's user emulation."""
    return ["qemu-aarch64-static", "-L", str(root), str(root / "usr/bin" / program)]


def _byte_compile(root: Path) -> None:
    """A guest's Python has its library compiled here: under emulation it would do so at every start."""
    if not (root / "usr/bin/python3").exists():
        return
    process.run(
        [
            *_emulated(root, "python3"),
            "-m",
            "compileall",
            "-q",
            "-s",
            str(root),
            # not -x: it would look for its pattern in the whole path, which has "testbed" in it
            str(root / "usr/lib/python3.13"),
            str(root / DIST_PACKAGES),
        ],
        what="Python byte code",
    )


def _alternatives(root: Path) -> None:
    """Links that update-alternatives would make and Xen's hotplug scripts call."""
    for name, target in {"awk": "mawk", "which": "which.debianutils"}.items():
        (root / "usr/bin" / name).symlink_to(target)


def _overlay(root: Path, folder: Path) -> None:
    """Copy a folder of this repository over the root, keeping modes, owned by root."""
    process.run(
        ["cp", "-r", "--preserve=mode,links", "--no-preserve=ownership", f"{folder}/.", str(root)],
        what=f"overlay {folder.name}",
    )


def _users(root: Path) -> None:
    """Create the users that all packages and units declare; root's shell is sh, as on OpenEmbedded's images."""
    process.run([*_emulated(root, "systemd-sysusers"), f"--root={root}"], what="users")
    passwd = root / "etc/passwd"
    text = passwd.read_text(encoding="utf-8")
    passwd.write_text(text.replace(":/root:/bin/bash\n", ":/root:/bin/sh\n"), encoding="utf-8")


def _enable(root: Path, wants: dict[str, str]) -> None:
    """Enable units as their [Install] sections say: unit -> target."""
    for unit, target in wants.items():
        folder = root / f"etc/systemd/system/{target}.wants"
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / unit
        if not link.is_symlink():
            link.symlink_to(f"/usr/lib/systemd/system/{unit}")


def _ssh(root: Path) -> None:
    """The testbed's own key pair opens root's door; the host key is the same for all guests."""
    folder = keys.folder()
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(folder / "client.pub", root / "root/.ssh/authorized_keys")
    for suffix in ("", ".pub"):
        shutil.copy(folder / f"host{suffix}", root / f"etc/ssh/ssh_host_ed25519_key{suffix}")


def _modules(root: Path, kernel: Path) -> None:
    process.run(["cp", "-r", f"{kernel}/modules/lib/modules", str(root / "usr/lib/")], what="kernel modules")


def _backend(root: Path) -> None:
    """Install the backend as its recipe does: the wheel, and what the Makefile of backend/data installs."""
    target = root / DIST_PACKAGES
    work = root.parent / "pip"
    # setuptools takes along what an earlier build of another state of the tree has left here
    shutil.rmtree(layout.BACKEND / "build", ignore_errors=True)
    process.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
            "--no-build-isolation",
            "--target",
            str(work),
            str(layout.BACKEND),
        ],
        env={"XEN_DMABUF_PUMP": "none"},  # this machine's code would be in it
        what="backend package",
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
    process.run(
        [
            *_emulated(root, "python3"),
            "-m",
            "compileall",
            "-q",
            "-s",
            str(root),
            str(target / "xen_dmabuf"),
            str(target / "pywayland/protocol"),
        ],
        what="Python byte code",
    )


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
    process.run(
        [*_emulated(root, "python3"), "-m", "compileall", "-q", "-s", str(root), str(target)], what="Python byte code"
    )


def _python_bindings(root: Path) -> None:
    """Wayland protocol modules that Debian's pywayland lacks, and the path of Xen's own bindings."""
    work = root.parent / "wheel"
    process.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
            "--target",
            str(work),
            PYWAYLAND,
        ],
        what=PYWAYLAND,
        remedy="is PyPI reachable?",
    )
    for protocol in PROTOCOLS:
        shutil.copytree(
            work / "pywayland/protocol" / protocol,
            root / DIST_PACKAGES / "pywayland/protocol" / protocol,
            dirs_exist_ok=True,
        )
    shutil.rmtree(work)
    (root / DIST_PACKAGES / "xen.pth").write_text("/usr/lib/xen-4.20/lib/python\n", encoding="utf-8")


def _weston(root: Path, configuration: str, drop_ins: tuple[str, ...]) -> None:
    """Weston's configuration where the layer's packages put it."""
    folder = root / "etc/xen-dmabuf" / configuration.removesuffix(".ini") / "weston"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(layout.WESTON / configuration, folder / "weston.ini")
    units = root / "usr/lib/systemd/system/weston.service.d"
    units.mkdir(parents=True, exist_ok=True)
    for name in drop_ins:
        shutil.copy(layout.WESTON / name, units / f"xen-dmabuf-{name}")


def _kiosk(root: Path) -> None:
    """The files of xen-dmabuf-weston-kiosk, put aside: machine.kiosk() installs them."""
    folder = root / "usr/share/xen-dmabuf/kiosk"
    folder.mkdir(parents=True)
    for name in ("kiosk.ini", "kiosk.conf", "kiosk.toml"):
        shutil.copy(layout.WESTON / name, folder / name)


def _write_image(name: str, root: Path, image: Path) -> None:
    """Pack a root into ext4; a size that is too small is an error of mke2fs."""
    for stamp in (root / "etc/.updated", root / "var/.updated"):
        stamp.touch()
    process.run(
        [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-L",
            name,
            "-O",
            "^has_journal",
            "-E",
            "lazy_itable_init=1",
            "-d",
            str(root),
            str(image),
            f"{IMAGE_MIB[name]}M",
        ],
        what=f"{name} image",
        remedy="raise IMAGE_MIB in testbed/rootfs.py if the image is too small",
    )


def _copy_root(packages: Path, folder: Path) -> Path:
    process.run(["cp", "-a", "--reflink=auto", str(packages / "root"), str(folder / "root")], what="root")
    return folder / "root"


def _recipe() -> str:
    """Of the modules that make a root."""
    return cache.digest([Path(module.__file__ or "") for module in (cross, guest_programs)] + [Path(__file__)])


def build_dom0(kernel: Path, guest_kernel: Path) -> Path:
    """dom0.ext4: Xen's tools, Weston on GL, the backend with the layer's units and configuration.

    ``kernel`` is also the DomUs'; ``guest_kernel`` is the other one that they can boot.
    """
    packages = _bootstrap("dom0", BASE_PACKAGES + DOM0_PACKAGES)
    inputs = {
        "packages": packages.name,
        "kernel": kernel.name,
        "guest kernel": guest_kernel.name,
        "pywayland": PYWAYLAND,
        "keys": keys.fingerprint(),
        "files": cache.digest(
            [
                layout.FILES / "common",
                layout.FILES / "dom0",
                layout.WESTON,
                layout.GUEST_CONFIG,
                layout.PROBE,
                layout.BACKEND / "src",
                layout.BACKEND / "data",
                layout.BACKEND / "tests",
                layout.BACKEND / "pyproject.toml",
                layout.BACKEND / "pump_build.py",
                layout.BACKEND / "setup.py",
            ]
        ),
        "recipe": _recipe(),
    }

    def build(folder: Path) -> None:
        root = _copy_root(packages, folder)
        _overlay(root, layout.FILES / "common")
        _overlay(root, layout.FILES / "dom0")
        _modules(root, kernel)
        shutil.copytree(kernel / "selftests", root / "usr/lib/xen-dmabuf/selftests")
        shutil.copy(layout.PROBE, root / "usr/lib/xen-dmabuf" / layout.PROBE.name)
        (root / layout.IMAGES).mkdir(parents=True)
        shutil.copy(kernel / "Image", root / layout.IMAGES / "domu-kernel")
        shutil.copy(guest_kernel / "Image", root / layout.IMAGES / "domu-kernel-guest")
        (root / layout.IMAGES / "domu.ext4").symlink_to("/dev/vdb")
        _hostile_frontend(root)
        _python_bindings(root)
        _backend(root)
        _weston(root, "dom0.ini", ("dom0.conf", "force-renderer.conf"))
        _kiosk(root)
        (root / "etc/xen").mkdir(exist_ok=True)
        shutil.copy(layout.GUEST_CONFIG, root / "etc/xen/domu.cfg")
        _users(root)
        _ssh(root)
        _enable(
            root,
            {
                "ssh.service": "multi-user.target",
                "systemd-networkd.service": "multi-user.target",
                "xen.service": "multi-user.target",
                "seatd.service": "multi-user.target",
                "weston.service": "graphical.target",
                "weston.socket": "sockets.target",
                "xen-dmabuf-backend.service": "multi-user.target",
            },
        )
        _write_image("dom0", root, folder / "dom0.ext4")
        shutil.rmtree(root)

    return cache.stage("dom0", inputs, build) / "dom0.ext4"


def build_domu(kernel: Path) -> Path:
    """domu.ext4: the DomU's Weston under systemd, and the pattern program under a minimal init."""
    packages = _bootstrap("domu", BASE_PACKAGES + DOMU_PACKAGES)
    inputs = {
        "packages": packages.name,
        "kernel": kernel.name,
        "keys": keys.fingerprint(),
        "files": cache.digest(
            [
                layout.FILES / "common",
                layout.FILES / "domu",
                layout.WESTON,
                layout.PATTERN,
                layout.BACKEND / "src",
                layout.BACKEND / "tests",
            ]
        ),
        "recipe": _recipe(),
    }

    def build(folder: Path) -> None:
        root = _copy_root(packages, folder)
        _overlay(root, layout.FILES / "common")
        _overlay(root, layout.FILES / "domu")
        guest_programs.build_pattern(folder, root / "usr/bin/xen-dmabuf-pattern")
        (root / "usr/lib/xen-dmabuf").mkdir()
        shutil.copy(layout.PATTERN / "pattern-init", root / "usr/lib/xen-dmabuf/pattern-init")
        _hostile_frontend(root)
        _backend_library(root)
        _weston(root, "domu.ini", ("domu.conf",))
        _users(root)
        _ssh(root)
        _enable(
            root,
            {
                "ssh.service": "multi-user.target",
                "seatd.service": "multi-user.target",
                "weston.service": "graphical.target",
                "weston.socket": "sockets.target",
            },
        )
        _write_image("domu", root, folder / "domu.ext4")
        shutil.rmtree(root)

    return cache.stage("domu", inputs, build) / "domu.ext4"
