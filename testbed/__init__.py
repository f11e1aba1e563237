# SPDX-License-Identifier: MIT
"""A real Xen with a real Dom0 and DomUs on QEMU arm64, built from Debian's packages.

Everything that the feature consists of is taken from this repository: the kernel patches and
fragments, the backend package with its unit files, weston.ini, the xl configuration.
"""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# The image's cases, and before them what stands in for oe-core's own oeqa: together they are one package.
sys.path += [str(_HERE / "oeqa_stand_in"), str(_HERE.parent / "lib")]
