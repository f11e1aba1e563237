# SPDX-License-Identifier: MIT
"""What bitbake packaged is what runs on Xen."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..debianroot import DIST_PACKAGES
from ..errors import ProofError
from ..guest import Guest
from ..proofs import Scene
from .debs import Deb

PUMP = f"/{DIST_PACKAGES}/xen_dmabuf/pump/_pump.abi3.so"
_SUMS = "/run/packages.sha256"


def files_are_the_packages(scene: Scene, dom0: Sequence[Deb], domu: Sequence[Deb]) -> str:
    """Each file of the packages is in the running guest, with the same content."""
    return (
        f"{_same(scene.dom0, dom0)} files in Dom0 and {_same(scene.domu, domu)} in the DomU have the SHA-256 "
        "that they have in their packages"
    )


def _same(guest: Guest, debs: Sequence[Deb]) -> int:
    sums = {path: digest for deb in debs for path, digest in deb.files().items()}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.writelines(f"{digest}  /{path}\n" for path, digest in sums.items())
        file.flush()
        guest.copy_to(Path(file.name), _SUMS)
    guest.run(f"sha256sum --quiet --strict -c {_SUMS}", timeout=120)
    return len(sums)


def packaged_c_serves_flips(scene: Scene) -> str:
    """The worker has the package's module mapped, and says that it serves flips by it."""
    status = scene.domu.backend_status()
    if status["flips"] != "compiled":
        raise ProofError(f'the worker serves flips by "{status["flips"]}", not by compiled code')
    maps = scene.dom0.run(f"cat /proc/{status['pid']}/maps")
    if PUMP not in maps:
        raise ProofError(f"worker {status['pid']} has no {PUMP} mapped")
    return f'worker {status["pid"]}: flips "{status["flips"]}", {PUMP} mapped'
