# SPDX-License-Identifier: MIT
"""Dom0's and the DomU's root file systems as ext4 images: Debian, the testbed's own files, the product."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from . import cache, debianroot, keys, layout, process
from .product import DOM0, DOMU, Product

IMAGE_MIB = {DOM0: 1400, DOMU: 1000}
MORE_MIB = 500
"""For the packages that a Dom0 has besides."""


def _accounts(root: Path) -> None:
    """Those that the product's files declare; homes below /home; root's shell is sh, as on OpenEmbedded's images."""
    debianroot.accounts(root)
    passwd = root / "etc/passwd"
    text = passwd.read_text(encoding="utf-8")
    passwd.write_text(text.replace(":/root:/bin/bash\n", ":/root:/bin/sh\n"), encoding="utf-8")
    for _name, _password, user, group, _comment, home, _shell in (line.split(":") for line in text.splitlines()):
        if home.startswith("/home/"):
            folder = root / home.lstrip("/")
            folder.mkdir(exist_ok=True)
            os.chown(folder, int(user), int(group))


def _ssh(root: Path) -> None:
    """The testbed's own key pair opens root's door; the host key is the same for all guests."""
    folder = keys.folder()
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(folder / "client.pub", root / "root/.ssh/authorized_keys")
    for suffix in ("", ".pub"):
        shutil.copy(folder / f"host{suffix}", root / f"etc/ssh/ssh_host_ed25519_key{suffix}")


def _modules(root: Path, kernel: Path) -> None:
    process.run(["cp", "-r", f"{kernel}/modules/lib/modules", str(root / "usr/lib/")], what="kernel modules")


def _write_image(name: str, mib: int, root: Path, image: Path) -> None:
    """Pack a root into ext4; a size that is too small is an error of mke2fs."""
    for stamp in (root / "etc/.updated", root / "var/.updated"):
        stamp.touch()
    options = ("-q", "-t", "ext4", "-L", name, "-O", "^has_journal", "-E", "lazy_itable_init=1")
    process.run(
        ["mke2fs", *options, "-d", str(root), str(image), f"{mib}M"],
        what=f"{name} image",
        remedy="raise IMAGE_MIB in testbed/rootfs.py if the image is too small",
    )


def _copy_root(packages: Path, folder: Path) -> Path:
    process.run(["cp", "-a", "--reflink=auto", str(packages / "root"), str(folder / "root")], what="root")
    return folder / "root"


def build_dom0(product: Product, kernel: Path, guest_kernel: Path, more: Sequence[str] = ()) -> Path:
    """dom0.ext4: Xen's tools, Weston on GL, the backend with the layer's units and configuration.

    ``kernel`` is also the DomUs'; ``guest_kernel`` is the other one that they can boot. ``more``: packages of
    Debian, for a root beside the usual one.
    """
    name = f"{DOM0}-more" if more else DOM0
    packages = debianroot.bootstrap(name, [*debianroot.BASE_PACKAGES, *debianroot.DOM0_PACKAGES, *more])
    inputs = {"kernel": kernel.name, "guest kernel": guest_kernel.name}

    def fill(root: Path) -> None:
        _modules(root, kernel)
        shutil.copytree(kernel / "selftests", root / "usr/lib/xen-dmabuf/selftests")
        (root / layout.IMAGES).mkdir(parents=True)
        shutil.copy(kernel / "Image", root / layout.IMAGES / "domu-kernel")
        shutil.copy(guest_kernel / "Image", root / layout.IMAGES / "domu-kernel-guest")
        (root / layout.IMAGES / "domu.ext4").symlink_to("/dev/vdb")
        # Xen's own Python bindings
        (root / debianroot.DIST_PACKAGES / "xen.pth").write_text("/usr/lib/xen-4.20/lib/python\n", encoding="utf-8")
        debianroot.enable(root, {"systemd-networkd.service": "multi-user.target", "xen.service": "multi-user.target"})

    return _build(DOM0, product, packages, inputs, fill, name, IMAGE_MIB[DOM0] + (MORE_MIB if more else 0))


def build_domu(product: Product, kernel: Path) -> Path:
    """domu.ext4: the DomU's Weston under systemd, and the pattern program under a minimal init."""
    packages = debianroot.bootstrap(DOMU, debianroot.BASE_PACKAGES + debianroot.DOMU_PACKAGES)
    return _build(DOMU, product, packages, {"kernel": kernel.name}, lambda _root: None, DOMU, IMAGE_MIB[DOMU])


def _build(
    side: str,
    product: Product,
    packages: Path,
    inputs: dict[str, str],
    fill: Callable[[Path], None],
    name: str,
    mib: int,
) -> Path:
    """The image of a side, if it isn't cached made of Debian's packages and the product; ``fill``: its own part."""
    overlays = [layout.FILES / "common", layout.FILES / side]

    def build(folder: Path) -> None:
        root = _copy_root(packages, folder)
        for overlay in overlays:
            debianroot.overlay(root, overlay)
        fill(root)
        product.install(side, root)
        _accounts(root)
        _ssh(root)
        debianroot.enable(root, {"ssh.service": "multi-user.target"})
        _write_image(side, mib, root, folder / f"{side}.ext4")
        shutil.rmtree(root)

    common = {
        "packages": packages.name,
        "keys": keys.fingerprint(),
        "files": cache.digest(overlays),
        "recipe": cache.digest([Path(__file__)]),
    }
    stage = f"{debianroot.stage()}{product.stage}{name}"
    return cache.stage(stage, {**common, **inputs, **product.inputs(side)}, build) / f"{side}.ext4"
