# SPDX-License-Identifier: MIT
"""``make layer-build``: each release's recipes from do_fetch to packages, the images, the kernel's checked options."""

from __future__ import annotations

import dataclasses
import os
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from .. import cache, host, oetrees
from ..cache import say
from ..errors import TestbedError
from . import bitbake, buildroot, folder, images, kernel, recipes, sysroot

STANDS_IN = """
Real: bitbake, oe-core's classes and tasks, the layers of OE_TREES, pseudo, do_fetch to do_package_qa, packages, SPDX.
Stand-ins: Debian's cross compiler, C library, libdrm, wayland, libgbm and Python 3.13 for OpenEmbedded's own
(recipe debian-sysroot), Debian's programs for native recipes, empty packages for weston, systemd, Xen's tools and
python3-*. The images are made of these packages, with a file for a kernel and without Xen: they can't be booted. What
OpenEmbedded's own versions would refuse isn't seen.
"""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What was asked for."""

    trees: str
    """The value of OE_TREES."""
    releases: Sequence[str]
    sources: str
    """The value of OE_SOURCES: a folder with what the network would give; may be empty."""
    kernel: kernel.Until
    images: bool = True


def run(wanted: Wanted, output: Path) -> int:
    """Build everything; packages, SPDX and logs go to ``output``. Needs root.

    Returns 0, or 1 if a recipe has a QA warning or an image any warning.
    Raises TestbedError with the remedy before anything is built if the trees are not what they should be.
    """
    host.require_root()
    trees = oetrees.check(wanted.trees, wanted.releases)
    sources = _sources(wanted.sources)
    print(textwrap.dedent(STANDS_IN), flush=True)
    debs, versions = sysroot.build()
    root = buildroot.build(versions)
    clean = True
    for each in trees:
        inputs = folder.Inputs(root, debs, each, sources)
        with cache.locked(f"layer-build-{each.release}"):
            clean &= _build(inputs, wanted, output / each.release)
    return 0 if clean else 1


def _sources(name: str) -> Path | None:
    if name and not Path(name).is_dir():
        raise TestbedError(f'OE_SOURCES is "{name}", which is no folder; name one, or leave it empty for the network')
    return Path(name).resolve() if name else None


def _build(inputs: folder.Inputs, wanted: Wanted, output: Path) -> bool:
    """One release, all machines; whether there is no warning that counts."""
    shutil.rmtree(output, ignore_errors=True)
    qemu, board = _folder(inputs, "qemuarm64"), _folder(inputs, "imx8qm-mek")
    qemu.prepare()
    board.prepare()
    own = [*recipes.of_layer(), *recipes.of_oe_core(inputs.trees.folder / oetrees.CORE)]
    clean = _recipes(qemu, own, output)
    clean &= _recipes(board, recipes.of_board(), output)
    if wanted.images:
        clean &= images.build(qemu, output)
    if wanted.kernel is not kernel.Until.NONE:
        kernel.build(dataclasses.replace(qemu, purpose=kernel.PURPOSE), wanted.kernel, output)
    return clean


def _folder(inputs: folder.Inputs, machine: str) -> folder.Folder:
    # What a task did with another compiler or another Python must not be taken for done.
    return folder.of(inputs, machine, {"root": inputs.root.parent.name})


def _recipes(build: folder.Folder, wanted: list[recipes.Recipe], output: Path) -> bool:
    machine = str(build.config["machine"])
    say(f"{build.name}: bitbake {' '.join(recipe.name for recipe in wanted)}")
    done = bitbake.run(build, [recipe.name for recipe in wanted], output / f"{machine}.log")
    packages = {r.name: recipes.packages(build.tmp, r) for r in wanted if r.has_packages}
    documents = [recipes.spdx(build.tmp, recipe) for recipe in wanted]
    _copy([file for files in packages.values() for file in files], output / machine / "packages")
    _copy(documents, output / machine / "spdx")
    for warning in done.warnings:
        say(f"{build.name}: warning: {warning}")
    say(f"{build.name}: {done.closing}")
    for name, files in packages.items():
        say(f"{build.name}: {name}: {', '.join(sorted(file.name.split('_')[0] for file in files))}")
    count = sum(len(files) for files in packages.values())
    say(f'{build.name}: {len(wanted)} recipes, {count} packages, {len(documents)} SPDX documents: "{output / machine}"')
    return not any("QA Issue" in warning for warning in done.warnings)


def _copy(files: Sequence[Path], target: Path) -> None:
    if not files:
        return
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(os.path.realpath(file), target / file.name)
