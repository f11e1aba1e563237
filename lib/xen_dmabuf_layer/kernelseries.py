# SPDX-License-Identifier: MIT
"""Which patches of kernel-patches/ a kernel line gets, and in which order.

What is the same in all lines lies in common/ once, what differs in a folder of
the line ("6.12"); of two files with one name the line's counts. extra/ has the
same two sorts of folders; its patches come last, and only where asked for.
guest/ has the same two sorts of folders for the frontends of a DomU; they touch no file
that the others touch. The layer, the testbed and tests/kernel_check.py all ask here.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    Root = str | os.PathLike[str]

TOP = "kernel-patches"
COMMON = "common"
EXTRA = "extra"
GUEST = "guest"


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


def folders(root: Root, line: str, extra: bool = False, guest: str = "") -> list[str]:
    """Return where a line's patches lie, its own folder before the common one; some may not exist.

    :param extra: the folders of extra/ as well.
    :param guest: the line whose folders of guest/ are returned as well, "" for none.
    """
    return [os.path.join(root, part, name) for part, of in _parts(line, extra, guest) for name in (of, COMMON)]


def patches(root: Root, line: str, extra: bool = False, guest: str = "") -> list[str]:
    """Return the paths of a line's patches in the order to apply them; none for an uncovered line.

    :param extra: those of extra/ as well, after the host's.
    :param guest: the line whose patches of guest/ come last, "" for none.
    """
    covered = lines(root)
    return [
        path
        for part, of in _parts(line, extra, guest)
        if of in covered
        for path in _merged(os.path.join(root, part), of)
    ]


def guest_patches(root: Root, line: str) -> list[str]:
    """Return the paths of the guest's patches alone, in order; none for an uncovered line."""
    return _merged(os.path.join(root, TOP, GUEST), line) if line in lines(root) else []


def _parts(line: str, extra: bool, guest: str) -> list[tuple[str, str]]:
    """Return the parts of kernel-patches/ that are wanted, in order, and the line that is wanted of each."""
    wanted = [(TOP, line)]
    if extra:
        wanted.append((os.path.join(TOP, EXTRA), line))
    if guest:
        wanted.append((os.path.join(TOP, GUEST), guest))
    return wanted


def _merged(part: str, line: str) -> list[str]:
    """Return the patches of one part by file name, the line's instead of common ones."""
    chosen: dict[str, str] = {}
    for folder in (os.path.join(part, COMMON), os.path.join(part, line)):
        if os.path.isdir(folder):
            names = [name for name in os.listdir(folder) if name.endswith(".patch")]
            chosen.update({name: os.path.join(folder, name) for name in names})
    return [chosen[name] for name in sorted(chosen)]


def guest_problem(root: Root, line: str) -> str | None:
    """Return a sentence for a line of guest's patches that there are none for, None for "" or one that has."""
    if not line or guest_patches(root, line):
        return None
    return (
        f'XEN_DMABUF_GUEST_SERIES is "{line}", but kernel-patches/{GUEST}/ covers {", ".join(lines(root))}. '
        'Set it to one of them, or to "" for a guest with the unpatched frontends.'
    )


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
