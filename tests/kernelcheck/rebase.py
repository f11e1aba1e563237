# SPDX-License-Identifier: MIT
"""Carry the patches of a line to another kernel, in a small repository of the touched files."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from . import series
from .run import run

_NOBODY = {
    f"GIT_{role}_{what}": value
    for role in ("COMMITTER", "AUTHOR")
    for what, value in (("NAME", "rebase"), ("EMAIL", "rebase@localhost"))
}
_FORMAT = ("format-patch", "-1", "-N", "--zero-commit", "--no-signature", "--stdout")


class Repository:
    """A git repository with the touched files of a tree as its newest commit."""

    def __init__(self, trees: list[Path], files: list[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kernel-rebase-"))
        self.git("init", "-q")
        for tree in trees:
            for name in files:
                self._copy(tree / name, self.folder / name)
            self.git("add", "-A", "-f")
            self.git("commit", "-q", "-m", "base", "--allow-empty")

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)

    def git(self, *arguments: str) -> tuple[int, str]:
        """Run git in it; return its status and output."""
        return run(["git", *arguments], self.folder, **_NOBODY)

    def take(self, patch: Path) -> str | None:
        """Apply a patch; return its new text, or "" where the old one applies. None: there is a conflict."""
        if not self.git("am", str(patch))[0]:
            return ""
        self.git("am", "--abort")
        status, self.output = self.git("am", "-3", "-C1", str(patch))
        return None if status else self.git(*_FORMAT)[1]


def rebase(options: argparse.Namespace) -> int:
    """Write to a folder what the other kernel has to have of its own; a file that is there already counts."""
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    patches = series.patches_of(options.line, options.extra)
    patches = [out / p.name if (out / p.name).exists() else p for p in patches]
    trees = [*([options.base] if options.base else []), options.tree]
    repository = Repository(trees, series.touched(patches))
    written = 0
    for patch in patches:
        text = repository.take(patch)
        if text is None:
            name = series.label(patch) if patch.parent != out else patch
            print(
                f"{repository.output}\nkernel_check: {name} conflicts. "
                f"Resolve it in {repository.folder}, 'git am --continue', then\n"
                f"git {' '.join(_FORMAT)} > {out / patch.name}\nand run this again."
            )
            return 1
        if text:
            (out / patch.name).write_text(text)
            written += 1
    shutil.rmtree(repository.folder)
    print(f"{len(patches)} patches, {written} written to {out}: the others apply as they are")
    return 0
