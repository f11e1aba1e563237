# SPDX-License-Identifier: MIT
"""What in a configuration cannot work, as sentences for the user."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Store

# Only recipes that linux-xen-dmabuf.inc is required by have this task.
PATCHED_BY = "do_xen_dmabuf_configcheck"
IMX8QM_DISPLAYS = ("lvds", "hdmi")
NEEDED = ("xen", "virtualization", "pam", "wayland", "opengl")


def problems(d: Store) -> list[str]:
    """Return a sentence for each setting that the feature cannot work with.

    :param d: the configuration's data store (anything with getVar).
    """
    features = _features(d)
    if "xen-dmabuf" not in features:
        return []
    found = []
    if d.getVar("VIRTUAL-RUNTIME_init_manager") != "systemd":
        found.append('the backend, Weston and the guests are started by systemd units. Set INIT_MANAGER = "systemd".')
    missing = [feature for feature in NEEDED if feature not in features]
    if missing:
        found.append(
            'DISTRO_FEATURES has "xen-dmabuf" but lacks what it stands on. Add to your '
            f'configuration: DISTRO_FEATURES:append = " {" ".join(missing)}"'
        )
    overrides = (d.getVar("OVERRIDES") or "").split(":")
    if "imxviv" in overrides and d.getVar("ACCEPT_FSL_EULA") != "1":
        found.append(
            f'MACHINE "{d.getVar("MACHINE")}" takes GBM from imx-gpu-viv, which is under NXP\'s '
            "licence. Read the EULA file in meta-freescale and, if you accept it, set "
            'ACCEPT_FSL_EULA = "1".'
        )
    display = d.getVar("XEN_DMABUF_IMX8QM_DISPLAY")
    if "imx8qm-mek" in overrides and display not in IMX8QM_DISPLAYS:
        found.append(
            f'XEN_DMABUF_IMX8QM_DISPLAY is "{display or ""}", but this layer has a device tree for '
            f"these only. Set it to {' or '.join(IMX8QM_DISPLAYS)}."
        )
    disk = d.getVar("XEN_DMABUF_GUEST_DISK")
    if disk and not re.fullmatch(r"(/[\w.+-]+)+", disk, re.ASCII):
        found.append(
            f'XEN_DMABUF_GUEST_DISK is "{disk}". Set it to the absolute path of a file or of a device, of '
            "letters, digits and _ . + - only: it becomes part of xl's configuration."
        )
    return found


def missing_provider(d: Store, item: str) -> str | None:
    """Return a sentence for a thing that nothing provides and the backend needs, else None."""
    if "xen-dmabuf" not in _features(d) or item not in ("virtual/libgbm", "libgbm"):
        return None
    return (
        f'MACHINE "{d.getVar("MACHINE")}" has no libgbm, and the backend allocates its buffers '
        "with it. Set PREFERRED_PROVIDER_virtual/libgbm to the recipe of the GPU's driver (mesa, "
        "imx-gpu-viv)."
    )


def unpatched_kernel(d: Store) -> str | None:
    """Return a sentence where a recipe is the build's kernel and nothing patches it, else None.

    :param d: a recipe's data store.
    """
    recipe = d.getVar("PN")
    if (
        "xen-dmabuf" not in _features(d)
        or d.getVar("PREFERRED_PROVIDER_virtual/kernel") != recipe
        or d.getVar(PATCHED_BY) is not None
    ):
        return None
    return (
        f'kernel recipe "{recipe}" gets neither the patches nor the options. Give it an append '
        f'"{recipe}_%.bbappend" in a layer of yours with the line '
        '"require recipes-kernel/linux/linux-xen-dmabuf.inc", or set '
        "PREFERRED_PROVIDER_virtual/kernel to a recipe that has one (linux-yocto, linux-fslc-imx, "
        "linux-imx)."
    )


def _features(d: Store) -> list[str]:
    features: str = d.getVar("DISTRO_FEATURES") or ""
    return features.split()
