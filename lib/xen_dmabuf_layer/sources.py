# SPDX-License-Identifier: MIT
"""Which files outside the layer's folder a recipe is made of.

Recipes name single files rather than folders: a folder's checksum would take in
whatever lies there (__pycache__ of a test run), and the signature would change
without a reason.
"""

from __future__ import annotations

import os

from . import kernelseries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Store
    from .kernelseries import Root

LEFTOVERS = ("__pycache__", "build", "dist")


def repository_files(root: Root, folder: str) -> list[str]:
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
    found: list[str] = []
    for parent, folders, names in os.walk(os.path.join(root, folder)):
        folders[:] = [f for f in folders if not _is_leftover(f)]
        found += [
            os.path.relpath(os.path.join(parent, name), root)
            for name in names
            if not name.startswith(".") and not name.endswith(".pyc")
        ]
    return sorted(found)


def _is_leftover(folder: str) -> bool:
    return folder.startswith(".") or folder in LEFTOVERS or folder.endswith(".egg-info")


def uris(d: Store, folder: str) -> str:
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


def kernel_version(d: Store) -> str:
    """Return a kernel recipe's version; a vendor's recipe may only have PV."""
    version: str = d.getVar("LINUX_VERSION") or d.getVar("PV")
    return version


def kernel_folders(d: Store) -> str:
    """Return FILESEXTRAPATHS entries for a kernel recipe's patches.

    :param d: the recipe's data store.
    """
    return ":".join(kernelseries.folders(*_kernel(d)))


def kernel_uris(d: Store) -> str:
    """Return SRC_URI entries for the fragments and the patches of a kernel recipe.

    :param d: the recipe's data store.
    """
    import bb.parse

    for folder in kernelseries.folders(*_kernel(d)):
        bb.parse.mark_dependency(d, folder)
    names = d.getVar("XEN_DMABUF_FRAGMENTS").split()
    names += [os.path.basename(path) for path in kernelseries.patches(*_kernel(d))]
    return " ".join(f"file://{name}" for name in names)


def _kernel(d: Store) -> tuple[str, str, bool, str]:
    """Return the root, the line, whether extra patches are wanted and the guest's line, as kernelseries takes them."""
    extra = d.getVar("XEN_DMABUF_KERNEL_EXTRA_PATCHES") == "1"
    guest: str = d.getVar("XEN_DMABUF_GUEST_SERIES") or ""
    return d.getVar("XEN_DMABUF_ROOT"), d.getVar("XEN_DMABUF_KERNEL_SERIES"), extra, guest


def is_the_kernel(d: Store) -> bool:
    """Is a kernel recipe the one that the configuration chooses, as far as it says?

    Of a recipe with two versions, only the preferred one counts.

    :param d: the recipe's data store.
    """
    recipe = d.getVar("PN")
    if d.getVar("PREFERRED_PROVIDER_virtual/kernel") != recipe:
        return False
    wanted: str | None = d.getVar(f"PREFERRED_VERSION_{recipe}")
    version: str = d.getVar("PV")
    if not wanted:
        return True
    return version.startswith(wanted[:-1]) if wanted.endswith("%") else version == wanted


def runtime_cases(root: Root) -> str:
    """Return the module names of lib/oeqa/runtime/cases, as TEST_SUITES wants them."""
    folder = os.path.join(root, "lib/oeqa/runtime/cases")
    if not os.path.isdir(folder):
        return ""
    names = (os.path.splitext(name) for name in os.listdir(folder))
    return " ".join(sorted(s for s, end in names if end == ".py" and not s.startswith("_")))
