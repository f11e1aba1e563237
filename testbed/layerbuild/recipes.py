# SPDX-License-Identifier: MIT
"""Which recipes of the layer are built, and what each must have left behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .. import layout
from ..errors import TestbedError

BOARD = "dynamic-layers/freescale-layer"
IMAGES = "recipes-core/images"
"""Built by images.py, of these recipes' packages."""


@dataclass(frozen=True)
class Recipe:
    """A recipe of the layer."""

    file: Path

    @property
    def name(self) -> str:
        """PN."""
        return self.file.stem.split("_")[0]

    @property
    def has_packages(self) -> bool:
        """Whether do_package runs."""
        return not re.search(r"^inherit\b.*\bnopackages\b", self.file.read_text(encoding="utf-8"), re.M)


def of_layer() -> list[Recipe]:
    """The recipes that need no board, without images."""
    files = sorted(layout.LAYER.glob("recipes-*/*/*.bb"))
    return [Recipe(file) for file in files if file.parent != layout.LAYER / IMAGES]


def of_oe_core(core: Path) -> list[Recipe]:
    """The recipes of oe-core's that are built as they are, since ours only add to what they package: Weston's units."""
    return [Recipe(core / "meta/recipes-graphics/wayland/weston-init.bb")]


def of_board() -> list[Recipe]:
    """The recipes for the i.MX8QM MEK alone."""
    return [Recipe(file) for file in sorted((layout.LAYER / BOARD).glob("recipes-*/*/*.bb"))]


def packages(tmp: Path, recipe: Recipe) -> list[Path]:
    """The .deb files that a recipe wrote, found by bitbake's own record of its packages.

    Raises TestbedError if one is missing: the recipe's tasks ran, and no package is there.
    """
    found = []
    for record in sorted((tmp / "pkgdata").glob(f"*/{recipe.name}")):
        names = re.search(r"^PACKAGES: ?(.*)", record.read_text(encoding="utf-8"), re.M)
        for package in names[1].split() if names else []:
            if (record.parent / "runtime" / f"{package}.packaged").exists():
                found += _written(tmp, record.parent, package)
    if not found:
        raise TestbedError(f'{recipe.name} was built, but "{tmp}" has no package of it; run "make clean-cache"')
    return found


def _written(tmp: Path, pkgdata: Path, package: str) -> list[Path]:
    """The file of a package; a package may be renamed after its library (PKG:)."""
    text = (pkgdata / "runtime" / package).read_text(encoding="utf-8")
    named = re.search(rf"^PKG:{re.escape(package)}: (\S+)", text, re.M)
    files = list((tmp / "deploy/deb").glob(f"*/{named[1] if named else package}_*.deb"))
    if not files:
        raise TestbedError(f'package "{package}" is on record, but not in "{tmp / "deploy/deb"}"')
    return files


def spdx(tmp: Path, recipe: Recipe) -> Path:
    """The SPDX document of a recipe's build: 3.0 (wrynose) or 2.2 (scarthgap). Raises TestbedError if there is none."""
    names = (f"build-{recipe.name}.spdx.json", f"recipe-{recipe.name}.spdx.json")
    found = [path for name in names for path in (tmp / "deploy/spdx").rglob(name)]
    if not found:
        raise TestbedError(f'{recipe.name} was built, but "{tmp / "deploy/spdx"}" has no SPDX document of it')
    return found[0]
