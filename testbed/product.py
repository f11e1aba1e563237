# SPDX-License-Identifier: MIT
"""What the product brings into the guests' roots, and where it comes from: this repository's files, or packages."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from .proofs import Scene

ENVIRONMENT = "XEN_DMABUF_PACKAGES"
"""A folder with packages that bitbake built; unset or empty: this repository's files."""
DOM0, DOMU = "dom0", "domu"
KIOSK = "usr/share/xen-dmabuf/kiosk"
"""In Dom0's root: what makes a kiosk of it (xen-dmabuf-weston-kiosk), put aside as a root of its own."""

Step = tuple[str, Callable[[], str]]
"""A claim, and the proof that tells what was seen."""


class Product(Protocol):
    """Fills in what Debian and the testbed don't bring. ``side`` is DOM0 or DOMU."""

    stage: str
    """Before the names of the cache's roots that it is in."""

    @property
    def origin(self) -> Sequence[str]:
        """Where it comes from, for the report: a sentence a line."""

    def inputs(self, side: str) -> dict[str, str]:
        """What decides about its files, for the root's key in the cache."""

    def install(self, side: str, root: Path) -> None:
        """Put its files into a root; ``root.parent`` is for scratch. Raises TestbedError."""

    def steps(self, scene: Scene) -> list[Step]:
        """Proofs that a running DomU and Dom0 have just these files; the DomU shows its pattern."""


def chosen() -> Product:
    """The one that ENVIRONMENT names. Raises TestbedError: what is there are no packages that fit together."""
    from . import packages, sources

    named = os.environ.get(ENVIRONMENT)
    return packages.Packages(Path(named)) if named else sources.Sources()
