# SPDX-License-Identifier: MIT
"""Which patches of kernel-patches/ a kernel line gets, and in which order.

What is the same in all lines lies in common/ once, what differs in a folder of
the line ("6.12"); of two files with one name the line's counts. extra/ has the
same two sorts of folders; its patches come last, and only where asked for.
The layer, the testbed and tests/kernel_check.py all ask here.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    Root = str | os.PathLike[str]

TOP = "kernel-patches"
COMMON = "common"
EXTRA = "extra"


def line_of(version: str | None) -> str:
    """Return the line ("6.12") of a version ("6.12.47"), "" for none."""
    parts = (version or "").split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and parts[0].isdigit() else ""


def lines(root: Root) -> list[str]:
    """Return the lines that have a folder in kernel-patches/, oldest first.

    :param root: the repository's root.
    """
    top = os.path.join(root, TOP)
    if not os.path.isdir(top):
        return []
    found = [name for name in os.listdir(top) if name and line_of(name) == name]
    return sorted(found, key=_numbers)


def _numbers(line: str) -> list[int]:
    return [int(n) for n in line.split(".")]


def nearest(root: Root, version: str | None) -> str:
    """Return the newest covered line that is not newer than a version, else the oldest."""
    covered = lines(root)
    older = [s for s in covered if _numbers(s) <= _numbers(line_of(version) or "0")]
    return older[-1] if older else covered[0]


def folders(root: Root, line: str, extra: bool = False) -> list[str]:
    """Return where a line's patches lie, its own folder before the common one; some may not exist.

    :param extra: the folders of extra/ as well.
    """
    parts = (TOP, os.path.join(TOP, EXTRA)) if extra else (TOP,)
    return [os.path.join(root, part, name) for part in parts for name in (line, COMMON)]


def patches(root: Root, line: str, extra: bool = False) -> list[str]:
    """Return the paths of a line's patches in the order to apply them; none for an uncovered line.

    :param extra: those of extra/ as well, after all others.
    """
    if line not in lines(root):
        return []
    found = _merged(os.path.join(root, TOP), line)
    return found + _merged(os.path.join(root, TOP, EXTRA), line) if extra else found


def _merged(part: str, line: str) -> list[str]:
    """Return the patches of one part by file name, the line's instead of common ones."""
    chosen: dict[str, str] = {}
    for folder in (os.path.join(part, COMMON), os.path.join(part, line)):
        if os.path.isdir(folder):
            names = [name for name in os.listdir(folder) if name.endswith(".patch")]
            chosen.update({name: os.path.join(folder, name) for name in names})
    return [chosen[name] for name in sorted(chosen)]


def problem(root: Root, recipe: str, version: str | None, line: str) -> str | None:
    """Return a sentence for a kernel recipe whose line has no patches, None for one that has."""
    if patches(root, line):
        return None
    covered = lines(root)
    if not covered:
        return (
            f'kernel-patches/ is not beside the layer in "{root}": meta-xen-dmabuf builds from '
            "the whole repository, clone all of it rather than copying the layer's folder."
        )
    return (
        f'kernel recipe "{recipe}" is version "{version}" and asks for the patches of series '
        f'"{line}", but kernel-patches/ covers '
        f"{', '.join(covered)}. Choose such a kernel with PREFERRED_PROVIDER_virtual/kernel and "
        f"PREFERRED_VERSION_{recipe}, or try the nearest series with "
        f'XEN_DMABUF_KERNEL_SERIES:pn-{recipe} = "{nearest(root, version)}".'
    )
