# SPDX-License-Identifier: MIT
"""What the product brings into the guests' roots, and where it comes from: this repository's files, or packages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from oeqa.runtime.cases.xen_dmabuf_zerocopy import XenDmabufZeroCopyTest

ENVIRONMENT = "XEN_DMABUF_PACKAGES"
"""A folder with packages that bitbake built; unset or empty: this repository's files."""
DOM0, DOMU = "dom0", "domu"
KIOSK = "usr/share/xen-dmabuf/kiosk"
"""In Dom0's root: what makes a kiosk of it (xen-dmabuf-weston-kiosk), put aside as a root of its own."""


class Product(Protocol):
    """Fills in what Debian and the testbed don't bring. ``side`` is DOM0 or DOMU."""

    stage: str
    """Before the names of the cache's roots that it is in."""

    @property
    def cases(self) -> type[XenDmabufZeroCopyTest]:
        """The image's cases of the picture, or these with more: that the running Dom0 and DomU have its files."""

    @property
    def claims(self) -> Sequence[tuple[str, str]]:
        """What more there is: sentences, each with the case that shows it."""

    @property
    def origin(self) -> Sequence[str]:
        """Where it comes from, for the report: a sentence a line."""

    def inputs(self, side: str) -> dict[str, str]:
        """What decides about its files, for the root's key in the cache."""

    def install(self, side: str, root: Path) -> None:
        """Put its files into a root; ``root.parent`` is for scratch. Raises TestbedError."""


def chosen() -> Product:
    """The one that ENVIRONMENT names. Raises TestbedError: what is there are no packages that fit together."""
    from . import packages, sources

    named = os.environ.get(ENVIRONMENT)
    return packages.Packages(Path(named)) if named else sources.Sources()
