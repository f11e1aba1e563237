# SPDX-License-Identifier: MIT
"""The patches of the kernel lines and what their text says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from xen_dmabuf_layer import kernelseries

from . import REPOSITORY

ROOT = REPOSITORY
_STATUS = re.compile(r"^Upstream-Status: (Pending|Submitted|Backport|Inappropriate|Denied)\b", re.M)


def lines() -> list[str]:
    """Every kernel line there is, oldest first."""
    return kernelseries.lines(ROOT)


def patches_of(line: str, extra: bool = False, guest: bool = False) -> list[Path]:
    """The patches of a line in the order in which they are applied; extra, guest: those of that folder as well."""
    found = kernelseries.patches(ROOT, line, extra, line if guest else "")
    if not found:
        sys.exit(f"kernel_check: no patches for '{line}'; there are: {', '.join(lines())}")
    return [Path(path) for path in found]


def parts(patches: list[Path]) -> list[list[Path]]:
    """The host's patches and the guest's: neither touches what the other does."""
    guest = [patch for patch in patches if patch.parent.parent.name == kernelseries.GUEST]
    return [[patch for patch in patches if patch not in guest], guest]


def common_one(patch: Path) -> Path | None:
    """The common patch instead of which a line has this one, if there is one."""
    other = patch.parent.parent / kernelseries.COMMON / patch.name
    return other if other != patch and other.exists() else None


def label(patch: Path) -> str:
    """How a patch is called in what this program prints: "common/0003-name.patch"."""
    return str(patch.relative_to(Path(ROOT) / kernelseries.TOP))


def header(patch: Path) -> str:
    """A patch's description, from its first line to the diff."""
    return re.split(r"^(?:---|diff --git .*)$", patch.read_text(), maxsplit=1, flags=re.M)[0]


def status(patch: Path) -> str:
    """The word of its Upstream-Status, "" without one."""
    found = _STATUS.search(header(patch))
    return found[1] if found else ""


def subject(patch: Path) -> str:
    """Its subject in one line, without the brackets."""
    found = re.search(r"^Subject: (?:\[.*?\] *)?(.*(?:\n .*)*)", header(patch), re.M)
    return re.sub(r"\n *", " ", found[1]).strip() if found else ""


def check_header(patch: Path) -> list[str]:
    """What is missing from a patch's description, or must not be there."""
    problems = []
    if not subject(patch):
        problems.append("no subject")
    if not status(patch):
        problems.append("no valid Upstream-Status")
    if re.search(r"^\s*Signed-off-by:", header(patch), re.M | re.I):
        problems.append("a Signed-off-by: whoever posts the patch signs it, nobody else can")
    return problems


def touched(patches: list[Path]) -> list[str]:
    """Every file that one of the patches changes or adds."""
    return sorted({name for patch in patches for name in re.findall(r"^\+\+\+ b/(.*)$", patch.read_text(), re.M)})


def changes(patch: Path) -> list[str]:
    """What a patch removes and adds, without context, line numbers and description."""
    found, wanted = [], False
    for line in patch.read_text().splitlines():
        if line.startswith("diff --git"):
            wanted = True
        if wanted and (line.startswith("+++ ") or re.match(r"[+-](?!--)", line) or line in ("+", "-")):
            found.append(line)
    return found
