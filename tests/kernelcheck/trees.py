# SPDX-License-Identifier: MIT
"""Kernel sources: Debian's or a folder, always as a copy that may be changed."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from testbed.debian import Archive

from . import series

DEBIAN = {"6.12": "trixie", "7.2": "sid"}
"""Lines whose kernel is a package of a Debian suite."""


@dataclass(frozen=True)
class Tree:
    """A kernel source that the patches of a line are checked against; no folder: Debian's."""

    line: str
    name: str
    folder: Path | None = None

    def copy_into(self, work: Path) -> Path:
        """Put a copy into a folder and return where its Makefile is.

        TestbedError: Debian's archive can't be reached.
        """
        if self.folder is None:
            return self._debian(work)
        copy = work / "linux"
        copy.mkdir()
        with subprocess.Popen(
            ["tar", "-C", str(self.folder), "--exclude=./.git", "-cf", "-", "."], stdout=subprocess.PIPE
        ) as pack:
            subprocess.run(["tar", "-C", str(copy), "-xf", "-"], stdin=pack.stdout, check=True)
        return copy

    def _debian(self, work: Path) -> Path:
        archive = Archive(DEBIAN[self.line])
        archive.update()
        archive.unpack([f"linux-source-{self.line}"], work / "package")
        tarball = next((work / "package/usr/src").glob("linux-source-*.tar.xz"))
        subprocess.run(["tar", "-C", str(work), "-xf", str(tarball)], check=True)
        return next(p for p in work.glob("linux-source-*") if p.is_dir())


def parse(text: str) -> Tree:
    """A tree from LINE=FOLDER or LINE:NAME=FOLDER; anything else ends the program with a sentence."""
    found = re.fullmatch(r"([\d.]+)(?::([\w.-]+))?=(.+)", text)
    folder = Path(found[3]).resolve() if found else Path()
    if not found or found[1] not in series.lines() or not (folder / "Makefile").is_file():
        sys.exit(
            f"kernel_check: '{text}' is not LINE=FOLDER or LINE:NAME=FOLDER, with LINE one of "
            f"{', '.join(series.lines())} and FOLDER a kernel's source"
        )
    return Tree(found[1], found[2] or folder.name, folder)


def version(tree: Path) -> str:
    """The kernel's version, from its Makefile."""
    text = (tree / "Makefile").read_text()
    return ".".join(re.search(rf"^{name} = (\d*)", text, re.M)[1] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
