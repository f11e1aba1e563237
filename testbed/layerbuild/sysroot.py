# SPDX-License-Identifier: MIT
"""Debian's arm64 libraries, headers and Python in place of what oe-core would compile for hours."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from .. import cache, debian
from ..packages import debs

LIBRARIES = "libraries.json"
PYTHON = "3.13"
"""As the testbed's Dom0 has it."""

PACKAGES = f"""
    libc6 libc6-dev linux-libc-dev libgcc-14-dev libgcc-s1 libcrypt-dev libcrypt1 libstdc++6 libatomic1
    libdrm-dev libdrm2 libwayland-dev libwayland-client0 libwayland-server0 libwayland-cursor0 libwayland-egl1
    libwayland-bin libffi-dev libffi8 wayland-protocols libgbm1 libgbm-dev
    libpython{PYTHON}-dev libpython{PYTHON}-minimal libpython{PYTHON}-stdlib libpython{PYTHON}
    libexpat1 libexpat1-dev zlib1g zlib1g-dev
    libxengnttab1 libxenevtchn1
""".split()
"""What the layer's recipes compile, link or generate from, and the libraries that these packages need themselves."""
FIT = ("libc6", f"libpython{PYTHON}", "libgcc-14-dev")
"""The compiler and Python of the build root are of the same sources."""


def build() -> tuple[Path, dict[str, str]]:
    """The folder of the .deb files, fetched if they aren't cached, and the versions of FIT."""
    archive = debian.Archive()
    archive.update()
    versions = archive.versions(PACKAGES)
    inputs = {**versions, "suite": debian.SUITE, "holds": LIBRARIES}
    folder = cache.stage("layer-build-sysroot", inputs, lambda target: _fetch(archive, target))
    return folder, {name: versions[name] for name in FIT}


def _fetch(archive: debian.Archive, folder: Path) -> None:
    for package, deb in archive.fetch(PACKAGES).items():
        shutil.copy(deb, folder / f"{package}.deb")
    (folder / LIBRARIES).write_text(json.dumps(_libraries(folder), indent=1), encoding="utf-8")


def include(folder: Path) -> str:
    """What recipe debian-sysroot requires as conf/debian-sysroot.inc."""
    libraries: dict[str, list[str]] = json.loads((folder / LIBRARIES).read_text(encoding="utf-8"))
    lines = [f'DEBIAN_DEBS = "{" ".join(PACKAGES)}"', f'DEBIAN_LIBRARIES = "{" ".join(libraries)}"']
    lines += [f'FILES:{package} = "{" ".join(files)}"' for package, files in libraries.items()]
    return "".join(f"{line}\n" for line in lines)


def _libraries(folder: Path) -> dict[str, list[str]]:
    """{Debian package: its shared libraries}, paths as they are with oe-core's library folder."""
    found = {}
    for package in PACKAGES:
        files = [_as_in_oe(name) for name in _names(folder / f"{package}.deb") if _is_library(name)]
        if files:
            found[package] = files
    return found


def _names(deb: Path) -> list[str]:
    """The paths of a .deb file's content, from "/" on."""
    with debs.archive(debs.content(deb)) as members:
        return [name.removeprefix(".") for name in members.getnames()]


def _is_library(path: str) -> bool:
    return re.fullmatch(r"/usr/lib/(aarch64-linux-gnu/)?[^/]+\.so\.[\d.]+", path) is not None


def _as_in_oe(path: str) -> str:
    return path.replace("/aarch64-linux-gnu", "")
