# SPDX-License-Identifier: MIT
"""Which files outside the layer's folder a recipe is made of.

Recipes name single files rather than folders: a folder's checksum would take in
whatever lies there (__pycache__ of a test run), and the signature would change
without a reason.
"""

import os

LEFTOVERS = ("__pycache__", "build", "dist")


def repository_files(root, folder):
    """Return the paths below root/folder, relative to root and sorted.

    Hidden entries, byte code and build folders are left out.

    :param root: the repository's root.
    :param folder: a folder relative to it.
    :raises FileNotFoundError: the folder is not there; the message says why.
    """
    if not os.path.isdir(os.path.join(root, folder)):
        raise FileNotFoundError(
            f'"{folder}" is not beside the layer in "{root}": meta-xen-dmabuf builds from the '
            "whole repository, clone all of it rather than copying the layer's folder."
        )
    found = []
    for parent, folders, names in os.walk(os.path.join(root, folder)):
        folders[:] = [f for f in folders if not _is_leftover(f)]
        found += [
            os.path.relpath(os.path.join(parent, name), root)
            for name in names
            if not name.startswith(".") and not name.endswith(".pyc")
        ]
    return sorted(found)


def _is_leftover(folder):
    return folder.startswith(".") or folder in LEFTOVERS or folder.endswith(".egg-info")


def uris(d, folder):
    """Return SRC_URI entries for every file of a folder of the repository.

    :param d: the recipe's data store.
    :raises bb.parse.SkipRecipe: only the layer's folder was copied.
    """
    import bb.parse

    root = d.getVar("XEN_DMABUF_ROOT")
    try:
        files = repository_files(root, folder)
    except FileNotFoundError as missing:
        raise bb.parse.SkipRecipe(str(missing)) from None
    for parent in {os.path.dirname(name) for name in files}:
        bb.parse.mark_dependency(d, os.path.join(root, parent))
    return " ".join(f"file://{name}" for name in files)


def kernel_version(d):
    """Return a kernel recipe's version; a vendor's recipe may only have PV."""
    return d.getVar("LINUX_VERSION") or d.getVar("PV")


def kernel_series(version):
    """Return the series ("6.12") of a version ("6.12.47"), "" for none."""
    parts = (version or "").split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and parts[0].isdigit() else ""


def covered_series(root):
    """Return the kernel series that kernel-patches/ has patches for, oldest first."""
    top = os.path.join(root, "kernel-patches")
    if not os.path.isdir(top):
        return []
    found = [s for s in os.listdir(top) if patches(root, s)]
    return sorted(found, key=_numbers)


def nearest_series(root, version):
    """Return the newest covered series that is not newer than a version, else the oldest."""
    covered = covered_series(root)
    older = [s for s in covered if _numbers(s) <= _numbers(kernel_series(version) or "0")]
    return older[-1] if older else covered[0]


def _numbers(series):
    return [int(n) for n in series.split(".")]


def patches(root, series):
    """Return the file names of a series' patches in the order to apply them."""
    folder = os.path.join(root, "kernel-patches", series)
    if not kernel_series(series) or not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if name.endswith(".patch"))


def kernel_uris(d):
    """Return SRC_URI entries for the fragments and the series' patches of a kernel recipe."""
    import bb.parse

    root, series = d.getVar("XEN_DMABUF_ROOT"), d.getVar("XEN_DMABUF_KERNEL_SERIES")
    bb.parse.mark_dependency(d, os.path.join(root, "kernel-patches", series))
    names = d.getVar("XEN_DMABUF_FRAGMENTS").split() + patches(root, series)
    return " ".join(f"file://{name}" for name in names)


def kernel_problem(root, recipe, version, series):
    """Return a sentence for a kernel without patches, None for one that has them."""
    if patches(root, series):
        return None
    covered = covered_series(root)
    if not covered:
        return (
            f'kernel-patches/ is not beside the layer in "{root}": meta-xen-dmabuf builds from '
            "the whole repository, clone all of it rather than copying the layer's folder."
        )
    return (
        f'kernel recipe "{recipe}" is version "{version}" and asks for the patches of series '
        f'"{series}", but kernel-patches/ covers '
        f"{', '.join(covered)}. Choose such a kernel with PREFERRED_PROVIDER_virtual/kernel and "
        f"PREFERRED_VERSION_{recipe}, or try the nearest series with "
        f'XEN_DMABUF_KERNEL_SERIES:pn-{recipe} = "{nearest_series(root, version)}".'
    )


def is_the_kernel(d):
    """Is a kernel recipe the one that the configuration chooses, as far as it says?

    Of a recipe with two versions, only the preferred one counts.

    :param d: the recipe's data store.
    """
    recipe = d.getVar("PN")
    if d.getVar("PREFERRED_PROVIDER_virtual/kernel") != recipe:
        return False
    wanted, version = d.getVar(f"PREFERRED_VERSION_{recipe}"), d.getVar("PV")
    if not wanted:
        return True
    return version.startswith(wanted[:-1]) if wanted.endswith("%") else version == wanted


def runtime_cases(root):
    """Return the module names of lib/oeqa/runtime/cases, as TEST_SUITES wants them."""
    folder = os.path.join(root, "lib/oeqa/runtime/cases")
    if not os.path.isdir(folder):
        return ""
    names = (os.path.splitext(name) for name in os.listdir(folder))
    return " ".join(sorted(s for s, end in names if end == ".py" and not s.startswith("_")))
