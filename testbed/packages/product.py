# SPDX-License-Identifier: MIT
"""Dom0's and the DomU's product out of a folder of packages."""

from __future__ import annotations

import shutil
from pathlib import Path

from .. import cache, debianroot, process
from ..debianroot import DIST_PACKAGES
from ..errors import TestbedError
from ..product import DOM0, DOMU, KIOSK
from . import cases, debs, dependencies, install, standins

# As the image recipes have it; the tests' packages are those of kas/testimage.yml.
WANTED = {
    DOM0: (
        "packagegroup-xen-dmabuf-dom0",
        "xen-dmabuf-guest",
        "xen-dmabuf-guest-network",
        "xen-dmabuf-backend-doc",
        # not -ptest, which has it too, but wants pytest
        "xen-dmabuf-backend-hostile",
    ),
    DOMU: ("packagegroup-xen-dmabuf-domu", "xen-dmabuf-pattern", "xen-dmabuf-backend-hostile"),
}
ASIDE = "xen-dmabuf-weston-kiosk"
"""Not in effect until a test puts it in its place."""
REPLACED = (f"{DIST_PACKAGES}/pywayland", f"{DIST_PACKAGES}/pywayland-*", "usr/bin/pywayland-scanner")
"""What of Debian's python3-pywayland makes room for the layer's."""
COMPILED = "import xen_dmabuf.pump._pump, pywayland._ffi"


class Packages:
    """The packages of a folder that bitbake filled. Raises TestbedError unless they are all there and fit together."""

    stage = "packaged-"
    cases = cases.PackagesTest
    claims = (
        ("Dom0's and the DomU's product is what bitbake packaged, file by file", "test_files_are_the_packages"),
        ("and the DomU's flips are served by that C", "test_packaged_c_serves_flips"),
    )

    def __init__(self, folder: Path) -> None:
        if debianroot.suite() != standins.SUITE:
            raise TestbedError(
                f"packages are built for {standins.SUITE}'s libraries and Python: {debianroot.ENVIRONMENT}="
                f'"{debianroot.suite()}" goes with this repository\'s files only'
            )
        self._folder = folder
        found = debs.of_folder(folder)
        self._sides = {side: dependencies.select(names, found, standins.STAND_INS) for side, names in WANTED.items()}
        kiosk = dependencies.select([*WANTED[DOM0], ASIDE], found, standins.STAND_INS)
        more = {deb.name for deb in kiosk.debs} - {deb.name for deb in self._sides[DOM0].debs} - {ASIDE}
        if more:
            raise TestbedError(f'"{ASIDE}" depends on {", ".join(sorted(more))}: add it to WANTED in "{__file__}"')
        self._aside = found[ASIDE]

    @property
    def origin(self) -> list[str]:
        lines = [f'The product came from packages that bitbake built ("{self._folder}"):']
        for side, selection in self._sides.items():
            lines.append(f"{side}: {', '.join(f'{deb.name} {deb.version}' for deb in selection.debs)}")
            by = (f"{name} ({standins.STAND_INS[name].by})" for name in selection.stand_ins)
            lines.append(f"{side}, of Debian in place of what they depend on: {', '.join(by)}")
        return lines

    def inputs(self, side: str) -> dict[str, str]:
        selected = [*self._sides[side].debs, *([self._aside] if side == DOM0 else [])]
        code = cache.digest(sorted(Path(__file__).parent.glob("*.py")))
        return {"code": code, **{deb.name: deb.sha256 for deb in selected}}

    def install(self, side: str, root: Path) -> None:
        selection = self._sides[side]
        absent = standins.absent(root, selection.stand_ins)
        if absent:
            by = standins.STAND_INS[absent[0]]
            raise TestbedError(
                f'{side}: "{absent[0]}" is depended on, but its stand-in isn\'t there: '
                f'{by.by} with "/{by.file}"; add it to testbed/debianroot.py'
            )
        if side == DOM0:
            _make_room(root)
            (root / KIOSK).mkdir(parents=True)
            install.unpack(root / KIOSK, self._aside)
        install.install(root, selection.debs)
        if side == DOM0:
            _load(root)

    def files(self, side: str) -> dict[str, str]:
        """SHA-256 of each file of a side's packages, by its path without a slash before it."""
        return {path: digest for deb in self._sides[side].debs for path, digest in deb.files().items()}


def _make_room(root: Path) -> None:
    for pattern in REPLACED:
        for path in root.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _load(root: Path) -> None:
    """What the packages have in C fits Dom0's Python and libraries, or the backend would do without it in silence."""
    process.run(
        [*debianroot.emulated(root, "python3"), "-c", COMPILED],
        what="the packages' C in Dom0's Python",
        remedy='was it built with other libraries? "make clean-cache", then "make layer-build"',
    )
