# SPDX-License-Identifier: MIT
"""The hypervisor: built from source with the layer's Xen patches, or Debian's binary as it is.

``XEN_DMABUF_XEN`` chooses. Unset, it is the patched one unless Debian's archive lacks the source.
``XEN_DMABUF_XEN_SOURCE`` names a tree of Xen to build in place of Debian's source package.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from xen_dmabuf_layer import xen as layer

from . import cache, layout, process
from .choice import chosen
from .debian import Archive, Sources
from .errors import MissingSourceError, TestbedError

ENVIRONMENT = "XEN_DMABUF_XEN"
SOURCE_ENVIRONMENT = "XEN_DMABUF_XEN_SOURCE"
VARIANTS = ("patched", "debian")
PACKAGE = "xen-hypervisor-4.20-arm64"
SOURCE_PACKAGE = "xen"
MARK = "-xen-dmabuf"
"""What the patched Xen appends to its version: "xl info" shows it as the end of xen_extra."""
NEEDED = ("Config.mk", "config", "xen")
"""What of Xen's tree the hypervisor alone is made of."""


def _binary() -> Path:
    """Folder with Debian's own ``xen``, and its ``config``."""

    def build(folder: Path) -> None:
        archive = Archive()
        archive.update()
        archive.unpack([PACKAGE], folder / "root")
        boot = folder / "root/boot"
        shutil.copy(boot / "xen-4.20-arm64", folder / "xen")
        shutil.copy(boot / "xen-4.20-arm64.config", folder / "config")
        shutil.rmtree(folder / "root")

    return cache.stage("xen", {"package": PACKAGE, "recipe": cache.digest([Path(__file__)])}, build)


def _own_source() -> Path | None:
    """The tree that the environment names. Raises TestbedError if it is none of Xen."""
    name = os.environ.get(SOURCE_ENVIRONMENT)
    if not name:
        return None
    tree = Path(name)
    if not all((tree / part).exists() for part in NEEDED):
        raise TestbedError(f'{SOURCE_ENVIRONMENT}="{name}" is no tree of Xen: it needs {", ".join(NEEDED)}')
    return tree


def version_of(tree: Path) -> str:
    """A tree's version as its Makefile has it, such as 4.20.4."""
    return process.run(
        ["make", "-s", "--no-print-directory", "-C", str(tree / "xen"), "xenversion"], what="Xen's version"
    ).split()[-1]


def _compile(tree: Path, config: Path, folder: Path) -> None:
    """Patch a tree and build the hypervisor into ``folder``, with Debian's options."""
    version = version_of(tree)
    names = layer.patches(str(layout.REPOSITORY), version)
    if not names:
        raise TestbedError(f"{layer.problem(str(layout.REPOSITORY), 'xen', version)} Or set {ENVIRONMENT}=debian.")
    for name in names:
        process.run(
            ["patch", "-p1", "--forward", "--fuzz=0", "-i", str(layout.REPOSITORY / name)],
            cwd=tree,
            what=f"Xen patch {name}",
            remedy=f"rebase it onto {version}",
        )
    shutil.copy(config, tree / "xen/.config")
    make = [
        "make",
        "-C",
        "xen",
        f"-j{os.cpu_count() or 1}",
        "XEN_TARGET_ARCH=arm64",
        "CROSS_COMPILE=aarch64-linux-gnu-",
        "CC=ccache aarch64-linux-gnu-gcc",
        "PYTHON=/usr/bin/python3",
        "XEN_DOMAIN=testbed",
        "XEN_BUILD_DATE=2026-01-01",
        "XEN_BUILD_TIME=00:00:00",
        f"XEN_VENDORVERSION={MARK}",
    ]
    for target in ("olddefconfig", "build"):
        process.run(
            [*make, target],
            what=f"Xen, make {target}",
            cwd=tree,
            log=folder / f"{target}.log",
            env={"CCACHE_DIR": str(cache.root() / "ccache"), "CCACHE_BASEDIR": str(tree)},
        )
    shutil.copy(tree / "xen/xen", folder / "xen")
    shutil.copy(tree / "xen/.config", folder / "config")


def _patched() -> Path:
    """Folder with the patched ``xen``. Raises TestbedError if there is no source."""
    own, sources, binary = _own_source(), Sources(), _binary()

    def inputs() -> dict[str, str]:
        source = (
            cache.digest([own / part for part in NEEDED])
            if own
            else f"{SOURCE_PACKAGE} {sources.version(SOURCE_PACKAGE)}"
        )
        return {
            "source": source,
            "config": binary.name,
            "patches": cache.digest(sorted(layout.XEN_PATCHES.glob("*/*.patch"))),
            "recipe": cache.digest([Path(__file__)]),
        }

    def build(folder: Path) -> None:
        tree = folder / "source"
        if own:
            tree.mkdir()
            process.run(
                ["cp", "-r", "--reflink=auto", *(str(own / part) for part in NEEDED), str(tree)], what="Xen's source"
            )
            process.run(["make", "-C", "xen", "distclean", "XEN_TARGET_ARCH=arm64"], cwd=tree, what="Xen's source")
        else:
            sources.unpack(SOURCE_PACKAGE, tree)
        _compile(tree, binary / "config", folder)
        shutil.rmtree(tree)

    # Only a build needs the network: until then the version is that of the last lists.
    if not own and (not sources.has_lists() or not cache.is_built("xen-patched", inputs())):
        sources.update()
    return cache.stage("xen-patched", inputs(), build)


def choice() -> str:
    """One of VARIANTS, by the environment."""
    return chosen(ENVIRONMENT, VARIANTS, "patched")


def build() -> Path:
    """The hypervisor binary that the environment chooses."""
    if choice() == "debian":
        return _binary() / "xen"
    try:
        return _patched() / "xen"
    except MissingSourceError as error:
        if os.environ.get(ENVIRONMENT):
            raise
        cache.say(str(error).splitlines()[0])
        cache.say(
            f"taking Debian's Xen as it is, WITHOUT THE PATCHES: {SOURCE_ENVIRONMENT} may name a tree of Xen, "
            f"{ENVIRONMENT}=patched makes this an error"
        )
        return _binary() / "xen"


def variant(binary: Path) -> str:
    """Which of VARIANTS :func:`build` has returned."""
    return "patched" if MARK.encode() in binary.read_bytes() else "debian"
