# SPDX-License-Identifier: MIT
"""Whether a device reads what the CPU's caches hold, as Linux decides it (of_dma_is_coherent)."""

from __future__ import annotations

import os

from ..record import record

# where coherence is a property of each device's node; elsewhere every device is coherent
_BY_DEVICE_TREE = ("aarch64", "armv7l", "riscv64")
_ANSWERS = {"dma-coherent": True, "dma-noncoherent": False}


@record
class Coherence:
    """The answer, and what it was read from."""

    coherent: bool
    why: str


def of_device(number: int, sysfs: str = "/sys", machine: str = os.uname().machine) -> Coherence:
    """Of the device whose node in /dev has dev_t ``number``.

    A device without a node of its own, such as one on PCI, has that of the nearest device above it:
    its host bridge. What says nothing anywhere up the tree isn't coherent.
    """
    if machine not in _BY_DEVICE_TREE:
        return Coherence(True, f"every device is on {machine}")
    root = os.path.realpath(f"{sysfs}/firmware/devicetree/base")
    if not os.path.isdir(root):
        return Coherence(True, "the machine has no device tree")
    node = _node(f"{sysfs}/dev/char/{os.major(number)}:{os.minor(number)}/device")
    if node is None:
        return Coherence(False, "no device tree node")
    name = "/" + os.path.relpath(node, root)
    while True:
        for key, coherent in _ANSWERS.items():
            if os.path.exists(f"{node}/{key}"):
                return Coherence(coherent, f"{key} for {name}")
        if node in (root, "/"):
            return Coherence(False, f"no dma-coherent for {name}")
        node = os.path.dirname(node)


def _node(device: str) -> str | None:
    """The device tree node of a device or of the nearest one above it."""
    above = os.path.realpath(device)
    while not os.path.exists(f"{above}/of_node"):
        if above == "/":
            return None
        above = os.path.dirname(above)
    return os.path.realpath(f"{above}/of_node")
