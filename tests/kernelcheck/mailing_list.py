# SPDX-License-Identifier: MIT
"""The patches that are meant for upstream, as files that git send-email takes."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path

from xen_dmabuf_layer import kernelseries

from . import series
from .check import IGNORED, checkpatch
from .run import run

COVER = "cover-letter.txt"
AUTHOR = "xen-dmabuf project <noreply@xen-dmabuf.invalid>"


def for_upstream(line: str) -> list[Path]:
    """The patches of a line without those that are for the product only."""
    return [patch for patch in series.patches_of(line) if series.status(patch) != "Inappropriate"]


def renumbered(patch: Path, number: int, count: int) -> str:
    """A patch's text as the n-th of m, without what only OpenEmbedded reads."""
    head = series.header(patch)
    rest = patch.read_text()[len(head) :]
    title = f"Subject: [PATCH {number}/{count}] {series.subject(patch)}"
    title = "\n ".join(textwrap.wrap(title, 76, break_long_words=False, break_on_hyphens=False))
    head = re.sub(r"^Subject: .*(?:\n .*)*", lambda _: title, head, count=1, flags=re.M)
    return re.sub(r"\n*^Upstream-Status:.*\n(?: .*\n)*", "\n\n", head, flags=re.M).rstrip("\n") + "\n\n" + rest


def cover_letter(text: str, patches: list[Path]) -> str:
    """The cover letter with its subject in the first line, a list of the patches and what they change."""
    # REUSE-IgnoreStart
    text = re.sub(r"\A(?:.*SPDX-License-Identifier:.*\n+)?(?:Subject: *)?(?:\[PATCH.*?\] *)?", "", text)
    # REUSE-IgnoreEnd
    title, _, body = text.partition("\n")
    listing = "\n".join(f"  {number:2} {series.subject(patch)}" for number, patch in enumerate(patches, 1))
    statistics = run(["git", "apply", "--stat", "-"], Path("/"), "".join(patch.read_text() for patch in patches))[1]
    return (
        f"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\nFrom: {AUTHOR}\n"
        f"Subject: [PATCH 0/{len(patches)}] {title}\n\n{body.strip()}\n\n{listing}\n\n{statistics}"
    )


def write(options: argparse.Namespace) -> int:
    """Write the cover letter and the patches to a folder that is new or empty."""
    out: Path = options.out
    letter = Path(series.ROOT) / kernelseries.TOP / COVER
    if not letter.exists():
        sys.exit(f"kernel_check: '{letter}' is missing: write the cover letter, its subject in the first line")
    if out.exists() and any(out.iterdir()):
        sys.exit(f"kernel_check: '{out}' is not empty: name a new folder, old files would be sent as well")
    out.mkdir(parents=True, exist_ok=True)
    patches = for_upstream(options.line or series.lines()[-1])
    (out / "0000-cover-letter.patch").write_text(cover_letter(letter.read_text(), patches))
    for number, patch in enumerate(patches, 1):
        name = re.sub(r"^\d+", f"{number:04}", patch.name)
        (out / name).write_text(renumbered(patch, number, len(patches)))
    print(
        f"{len(patches)} patches and the cover letter in {out}; sign them with 'git am --signoff' before you post them"
    )
    return _checkpatch(out, options.tree) if options.tree else 0


def _checkpatch(out: Path, tree: Path) -> int:
    """Run a tree's checkpatch over what was written, as the list's robots do."""
    patches = sorted(out.glob("*.patch"))[1:]
    problems = [text for patch in patches for text in checkpatch(patch.resolve(), tree, IGNORED)]
    print("\n".join(problems) or f"ok   checkpatch of {tree}")
    return int(bool(problems))
