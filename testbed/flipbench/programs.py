# SPDX-License-Identifier: MIT
"""What the bench brings along: clients/flip, the initramfs that is all of its DomU, and Debian's strace."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from .. import cache, cross, layout
from ..debian import Archive

SOURCES = layout.REPOSITORY / "clients" / "flip"
DOMU = "domu.cpio"
LOCAL = "local"
STRACE = "strace"


def _entry(name: str, mode: int, number: int, data: bytes = b"") -> bytes:
    """A file of a cpio archive in the format "newc", which the kernel unpacks."""
    text = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(text), 0)
    head = b"070701" + b"".join(b"%08x" % value for value in fields) + text
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initramfs(init: bytes) -> bytes:
    """An uncompressed archive with that init and an empty /dev: nothing has to be inflated at boot."""
    return (
        _entry("dev", stat.S_IFDIR | 0o755, 1)
        + _entry("init", stat.S_IFREG | 0o755, 2, init)
        + _entry("TRAILER!!!", 0, 0)
    )


def _build(folder: Path) -> None:
    for name in ("flip", LOCAL):
        cross.compile_c([SOURCES / f"{name}.c"], folder / name, "-static", "-s", what=f"program {name}")
    (folder / DOMU).write_bytes(initramfs((folder / "flip").read_bytes()))


def build() -> Path:
    """Folder with DOMU and LOCAL."""
    return cache.stage(
        "flip-programs",
        {"sources": cache.digest([SOURCES]), "recipe": cache.digest([Path(__file__), Path(cross.__file__)])},
        _build,
    )


def _unpack_strace(folder: Path) -> None:
    archive = Archive()
    archive.update()
    archive.unpack([STRACE], folder / "root")
    shutil.move(folder / "root/usr/bin" / STRACE, folder / STRACE)
    shutil.rmtree(folder / "root")


def strace() -> Path:
    """Folder with STRACE, which needs no library that Dom0 lacks."""
    return cache.stage("flip-strace", {"recipe": cache.digest([Path(__file__)])}, _unpack_strace)
