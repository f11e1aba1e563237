# SPDX-License-Identifier: MIT
"""Which patches of xen-patches/ fit a version of Xen.

Each folder there is named by the release of Xen that it is for ("4.17") or by
the first and the last of them ("4.18-4.22").
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Store
    from .kernelseries import Root

FOLDER = "xen-patches"
_RANGE = re.compile(r"^(\d+)\.(\d+)(?:-(\d+)\.(\d+))?$")


def release(version: str | None) -> str:
    """Return the release ("4.20") of a version ("4.20.0+stable", "4.21-dev+git"), "" for none."""
    match = re.match(r"\d+\.\d+", version or "")
    return match[0] if match else ""


def _covered(root: Root) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
    """Return {folder: (first, last)}, releases as pairs of numbers."""
    top = os.path.join(root, FOLDER)
    found: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}
    for name in os.listdir(top) if os.path.isdir(top) else ():
        if match := _RANGE.match(name):
            first = (int(match[1]), int(match[2]))
            found[name] = (first, (int(match[3]), int(match[4])) if match[3] else first)
    return found


def patches(root: Root, version: str | None) -> list[str]:
    """Return a version's patches in the order to apply them, relative to the repository's root.

    :param root: the repository's root.
    :param version: Xen's version, or a recipe's PV.
    """
    wanted = release(version)
    if not wanted:
        return []
    number = tuple(int(part) for part in wanted.split("."))
    for name, (first, last) in _covered(root).items():
        if first <= number <= last:
            names = os.listdir(os.path.join(root, FOLDER, name))
            return [f"{FOLDER}/{name}/{n}" for n in sorted(names) if n.endswith(".patch")]
    return []


def problem(root: Root, recipe: str, version: str | None) -> str | None:
    """Return a sentence for a Xen without patches, None for one that has them."""
    if patches(root, version):
        return None
    covered = [name for name, _releases in sorted(_covered(root).items(), key=lambda entry: entry[1])]
    if not covered:
        return (
            f'{FOLDER}/ is not beside the layer in "{root}": meta-xen-dmabuf builds from the whole '
            "repository, clone all of it rather than copying the layer's folder."
        )
    return (
        f'recipe "{recipe}" is version "{version}", and {FOLDER}/ covers {", ".join(covered)}: '
        "this Xen is built without the patches. Dom0's kernel works with it, but takes a slower way when "
        f"a buffer is released. Choose a covered one with PREFERRED_VERSION_{recipe}."
    )


def uris(d: Store) -> str:
    """Return SRC_URI entries for the patches that fit a Xen recipe's version.

    :param d: the recipe's data store.
    """
    import bb.parse

    root = d.getVar("XEN_DMABUF_ROOT")
    found = patches(root, d.getVar("PV"))
    for folder in {os.path.dirname(name) for name in found} or {FOLDER}:
        bb.parse.mark_dependency(d, os.path.join(root, folder))
    return " ".join(f"file://{name}" for name in found)
