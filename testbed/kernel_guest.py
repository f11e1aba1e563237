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


def _compile(folder: Path) -> None:
    """Image. First the plain kernel, from the compiler's cache, then only what the patches and options change."""
    tree = kernel.unpack(folder)
    kernel.configure(tree)
    kernel.make(tree, "Image", log=folder / "plain.log")
    for patch in patches():
        process.run(
            ["patch", "-p1", "--forward", "--fuzz=0", "-i", str(patch)], cwd=tree, what=f"kernel patch {patch.name}"
        )
    kernel.configure(tree, (FRAGMENT,))
    kernel.make(tree, "Image", log=folder / "build.log")
    shutil.copy(tree / "arch/arm64/boot/Image", folder / "Image")
    shutil.copy(tree / ".config", folder / "config")
    shutil.rmtree(tree)


def build() -> Path:
    """Folder with Image and config."""
    inputs = {
        **kernel.inputs(),
        "guest": cache.digest([*patches(), FRAGMENT]),
        "guest recipe": cache.digest([Path(__file__)]),
    }
    return cache.stage(f"kernel-guest-{kernel.line()}", inputs, _compile)
