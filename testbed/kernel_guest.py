# SPDX-License-Identifier: MIT
"""The DomU's kernel with the guest's series (kernel-patches/guest), beside the plain one of :mod:`testbed.kernel`.

Dom0 and most DomUs boot the plain kernel: its frontends are what most guests have.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from xen_dmabuf_layer import kernelseries

from . import cache, kernel, layout, process

FRAGMENT = layout.TESTBED_KERNEL / "guest.cfg"


def patches() -> list[Path]:
    """The guest's patches for the chosen line, in order."""
    return [Path(path) for path in kernelseries.guest_patches(layout.REPOSITORY, kernel.line())]


def compile_into(
    folder: Path, extra: tuple[Path, ...] = (), more: tuple[Path, ...] = (), own: tuple[Path, ...] = (FRAGMENT,)
) -> None:
    """Image and config of a kernel with additional fragments and patches; ``own`` come with the guest's series.

    First the same without the guest's series, from the compiler's cache, then only what its patches and options change.
    """
    tree = kernel.unpack(folder, more)
    kernel.configure(tree, extra)
    kernel.make(tree, "Image", log=folder / "plain.log")
    for patch in patches():
        process.run(
            ["patch", "-p1", "--forward", "--fuzz=0", "-i", str(patch)], cwd=tree, what=f"kernel patch {patch.name}"
        )
    kernel.configure(tree, (*extra, *own))
    kernel.make(tree, "Image", log=folder / "build.log")
    shutil.copy(tree / "arch/arm64/boot/Image", folder / "Image")
    shutil.copy(tree / ".config", folder / "config")
    shutil.rmtree(tree)


def inputs() -> dict[str, str]:
    """What it is made of, for the cache."""
    return {
        **kernel.inputs(),
        "guest": cache.digest([*patches(), FRAGMENT]),
        "guest recipe": cache.digest([Path(__file__)]),
    }


def build() -> Path:
    """Folder with Image and config."""
    return cache.stage(f"kernel-guest-{kernel.line()}", inputs(), compile_into)
