# SPDX-License-Identifier: MIT
"""What in a configuration cannot work, as sentences for the user."""

NEEDED = ("xen", "virtualization", "pam", "wayland", "opengl")


def problems(d):
    """Return a sentence for each setting that the feature cannot work with.

    :param d: the configuration's data store (anything with getVar).
    """
    features = (d.getVar("DISTRO_FEATURES") or "").split()
    if "xen-dmabuf" not in features:
        return []
    found = []
    if d.getVar("VIRTUAL-RUNTIME_init_manager") != "systemd":
        found.append(
            "the backend, Weston and the guests are started by systemd units. "
            'Set INIT_MANAGER = "systemd".'
        )
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
    return found
