# SPDX-License-Identifier: MIT
"""do_rootfs of both images: the layer's own packages among empty ones, and a look into the roots that come out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..cache import say
from ..debianroot import PRESETS
from ..errors import TestbedError
from . import bitbake
from .folder import Folder, one

CONFIG = "conf/include/debian-images.conf"
"""Of the host layer: what bitbake reads after local.conf where it makes images."""
ENABLED = "etc/systemd/system"
"""Where a link enables a unit."""
EXT4_MAGIC = b"\x53\xef"
EXT4_MAGIC_AT = 0x438


@dataclass(frozen=True)
class Image:
    """An image of the layer, and what its root must have."""

    name: str
    enabled: tuple[str, ...]
    """Links that enable units, below ENABLED."""
    groups: tuple[str, ...]
    files: tuple[str, ...]
    packages: tuple[str, ...]
    no_packages: tuple[str, ...]
    has_guest: bool = False


# Of systemd-networkd, presets alone make the link: no package's postinst does.
BOTH = (
    "getty.target.wants/serial-getty@hvc0.service",
    "graphical.target.wants/weston.service",
    "multi-user.target.wants/systemd-networkd.service",
    "sockets.target.wants/weston.socket",
)
DOM0 = Image(
    "xen-dmabuf-image-dom0",
    (*BOTH, "multi-user.target.wants/xen-dmabuf-backend.service"),
    ("render", "video", "wayland", "xen-dmabuf"),
    (
        "etc/xen-dmabuf/backend.toml",
        "etc/xen-dmabuf/dom0/weston/weston.ini",
        "usr/bin/xen-dmabuf-backend",
        "usr/lib/systemd/network/10-xenbr0.netdev",
        "usr/lib/systemd/system/weston.service.d/xen-dmabuf-dom0.conf",
        "usr/lib/systemd/system/weston.service.d/xen-dmabuf-restart.conf",
        "usr/lib/systemd/system/xen-dmabuf-worker@.service",
        "usr/lib/systemd/system/xendomains.service.d/xen-dmabuf.conf",
        "usr/lib/udev/rules.d/70-xen-dmabuf.rules",
    ),
    (
        "openssh",
        "packagegroup-xen-dmabuf-dom0",
        "python3-pywayland",
        "xen-dmabuf-guest",
        "xen-dmabuf-guest-network",
        "xen-dmabuf-weston-force-renderer",
        "xen-tools-xendomains",
    ),
    ("xen-dmabuf-backend-hostile", "xen-dmabuf-pattern", "xen-dmabuf-weston-domu", "xen-dmabuf-weston-kiosk"),
    has_guest=True,
)
DOMU = Image(
    "xen-dmabuf-image-domu",
    BOTH,
    ("render", "video", "wayland"),
    (
        "etc/xen-dmabuf/domu/weston/weston.ini",
        "usr/bin/xen-dmabuf-pattern",
        "usr/lib/systemd/system/weston.service.d/xen-dmabuf-domu.conf",
        "usr/lib/systemd/system/weston.service.d/xen-dmabuf-restart.conf",
        "usr/lib/udev/rules.d/60-xen-dmabuf-input.rules",
        "usr/lib/xen-dmabuf/pattern-init",
    ),
    ("packagegroup-xen-dmabuf-domu", "weston-examples"),
    ("openssh", "xen-dmabuf-backend", "xen-dmabuf-backend-hostile", "xen-dmabuf-weston-dom0", "xen-tools-xl"),
)
IMAGES = (DOMU, DOM0)


def build(folder: Folder, output: Path) -> bool:
    """Make both images in a prepared build folder; whether bitbake had no warning.

    Raises TestbedError if bitbake fails, as it does where two packages are in conflict or have the same file, or if
    a root isn't what it must be.
    """
    say(f"{folder.name}: bitbake {' '.join(image.name for image in IMAGES)}")
    targets = [f"{image.name}:do_image_complete" for image in IMAGES]
    done = bitbake.run(folder, ["-R", CONFIG, *targets], output / "images.log")
    for warning in done.warnings:
        say(f"{folder.name}: warning: {warning}")
    say(f"{folder.name}: {done.closing}")
    for image in IMAGES:
        say(f"{folder.name}: {_checked(folder, image)}")
    return not done.warnings


def _checked(folder: Folder, image: Image) -> str:
    root, manifest = one(folder.tmp, f"work/*/{image.name}/*/rootfs"), _manifest(folder, image)
    found = [*problems(root, image), *package_problems(packages(manifest), image)]
    if found:
        raise TestbedError(f'{folder.name}: {image.name}: {"; ".join(found)}. Its root: "{root}"')
    return f"{image.name}: {len(packages(manifest))} packages, {len(image.enabled)} units enabled: {root}"


def _manifest(folder: Folder, image: Image) -> Path:
    machine = str(folder.config["machine"])
    return folder.tmp / f"deploy/images/{machine}/{image.name}-{machine}.rootfs.manifest"


def packages(manifest: Path) -> set[str]:
    """The names in an image's manifest."""
    return {line.split()[0] for line in manifest.read_text(encoding="utf-8").splitlines() if line}


def package_problems(installed: set[str], image: Image) -> list[str]:
    """A sentence for each package that is missing or must not be there."""
    missing = [f'package "{name}" is not installed' for name in image.packages if name not in installed]
    return missing + [f'package "{name}" is installed' for name in image.no_packages if name in installed]


def problems(root: Path, image: Image) -> list[str]:
    """A sentence for each thing that is wrong in an image's root."""
    return [*_units(root, image), *_accounts(root, image), *_files(root, image), *_guest(root, image)]


def _units(root: Path, image: Image) -> Iterator[str]:
    for link in image.enabled:
        if not _is_there(root, f"{ENABLED}/{link}"):
            yield f'"{ENABLED}/{link}" leads to no unit: look at SYSTEMD_SERVICE and at log.do_rootfs for "systemctl"'
    enabled = {name for folder in (root / ENABLED).glob("*.wants") for name in os.listdir(folder)}
    for file in sorted((root / PRESETS).glob("*.preset")):
        for unit in re.findall(r"^enable (\S+)", file.read_text(encoding="utf-8"), re.M):
            if unit not in enabled:
                yield f'"{PRESETS}/{file.name}" enables {unit}, but nothing wants it: did "systemctl preset-all" run?'
    default = root / ENABLED / "default.target"
    target = os.path.basename(os.readlink(default)) if default.is_symlink() else "not set"
    if target != "graphical.target":
        yield f"default.target is {target}, not graphical.target: Weston isn't started; look at IMAGE_FEATURES"


def _accounts(root: Path, image: Image) -> Iterator[str]:
    groups = _names(root / "etc/group")
    for group in image.groups:
        if group not in groups:
            yield f'group "{group}" is not in etc/group: look at GROUPADD_PARAM'
    if "weston" not in _names(root / "etc/passwd"):
        yield 'user "weston" is not in etc/passwd: look at log.do_rootfs for weston-init'
    shadow = root / "etc/shadow"
    if not shadow.exists() or not re.search(r"^root:\*:", shadow.read_text(encoding="utf-8"), re.M):
        yield "root has no locked password in etc/shadow: did ROOTFS_POSTPROCESS_COMMAND run?"


def _files(root: Path, image: Image) -> Iterator[str]:
    for file in (*image.files, "etc/timestamp"):
        if not _is_there(root, file):
            yield f'"{file}" is missing: look at FILES of its package, or log.do_rootfs'


def _guest(root: Path, image: Image) -> Iterator[str]:
    if not image.has_guest:
        return
    if not _is_there(root, "etc/xen/auto/domu.cfg"):
        yield '"etc/xen/auto/domu.cfg" leads nowhere: no guest is started at boot'
        return
    text = (root / "etc/xen/domu.cfg").read_text(encoding="utf-8")
    kernel, disk = re.search(r'^kernel\s*=\s*"([^"]+)"', text, re.M), re.search(r"\bfile:([^,']+)", text)
    for what, named in (("kernel", kernel), ("disk", disk)):
        if not named or not _content(root / named[1].lstrip("/")):
            yield f'the guest\'s {what} of "etc/xen/domu.cfg" is not there: look at install_guest of {image.name}'
    if disk and _content(root / disk[1].lstrip("/"))[EXT4_MAGIC_AT:][:2] != EXT4_MAGIC:
        yield f'"{disk[1]}" is no ext4 file system: look at do_image_ext4 of {DOMU.name}'


def _content(file: Path) -> bytes:
    """The begin of a file; empty if there is none."""
    if not file.is_file():
        return b""
    with file.open("rb") as handle:
        return handle.read(EXT4_MAGIC_AT + 2)


def _names(file: Path) -> set[str]:
    """The first fields of passwd or group."""
    return {line.split(":")[0] for line in file.read_text(encoding="utf-8").splitlines()} if file.exists() else set()


def _is_there(root: Path, path: str) -> bool:
    """Whether a path is a file when the root is the machine's: its absolute links don't lead out of it."""
    for _ in range(8):
        file = root / path
        if not file.is_symlink():
            return file.is_file()
        path = os.path.normpath(os.path.join("/", os.path.dirname(path), os.readlink(file))).lstrip("/")
    return False
