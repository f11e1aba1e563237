# SPDX-License-Identifier: MIT
"""Whether a device reads what the CPU's caches hold, as Linux decides it (of_dma_is_coherent)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# where coherence is a property of each device's node; elsewhere every device is coherent
_BY_DEVICE_TREE = ("aarch64", "armv7l", "riscv64")
_ANSWERS = {"dma-coherent": True, "dma-noncoherent": False}


@dataclass(frozen=True)
class Coherence:
    """The answer, and what it was read from."""

    coherent: bool
    why: str


def of_device(number: int, sysfs: Path = Path("/sys"), machine: str = os.uname().machine) -> Coherence:
    """Of the device whose node in /dev has dev_t ``number``.

    A device without a node of its own, such as one on PCI, has that of the nearest device above it:
    its host bridge. What says nothing anywhere up the tree isn't coherent.
    """
    if machine not in _BY_DEVICE_TREE:
        return Coherence(True, f"every device is on {machine}")
    root = sysfs / "firmware/devicetree/base"
    if not root.is_dir():
        return Coherence(True, "the machine has no device tree")
    node = _node(sysfs / f"dev/char/{os.major(number)}:{os.minor(number)}/device")
    if node is None:
        return Coherence(False, "no device tree node")
    name = "/" + os.path.relpath(node, root.resolve())
    while True:
        for key, coherent in _ANSWERS.items():
            if (node / key).exists():
                return Coherence(coherent, f"{key} for {name}")
        if node == root.resolve() or node == node.parent:
            return Coherence(False, f"no dma-coherent for {name}")
        node = node.parent


def _node(device: Path) -> Path | None:
    """The device tree node of a device or of the nearest one above it."""
    device = device.resolve()
    for candidate in (device, *device.parents):
        if (candidate / "of_node").exists():
            return (candidate / "of_node").resolve()
    return None
