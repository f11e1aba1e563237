# SPDX-License-Identifier: MIT
"""A real Xen with a real Dom0 and DomUs on QEMU arm64, built from Debian's packages.

Everything that the feature consists of is taken from this repository: the kernel patches and
fragments, the backend package with its unit files, weston.ini, the xl configuration.
"""

import sys
from pathlib import Path

# What the image tests know of pictures, the demo uses as well.
sys.path.append(str(Path(__file__).resolve().parent.parent / "lib"))
