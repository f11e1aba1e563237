# SPDX-License-Identifier: MIT
"""The patches of a line against one kernel tree, each on its own."""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path

from testbed.errors import TestbedError

from . import compiling, series
from .run import run
from .trees import DEBIAN, Tree, parse, version

# Every driver of gntdev is covered by "F: drivers/xen/" in MAINTAINERS already. Nobody has signed
# these patches: whoever posts one does. checkpatch doesn't know Originally-by, and a tree that is
# no clone of Linux none of its commits.
IGNORED = "FILE_PATH_CHANGES,MISSING_SIGN_OFF,BAD_SIGN_OFF,UNKNOWN_COMMIT_ID"
# 6.18's checkpatch asks for kzalloc_obj() from some 6.18.y on, which 6.18.2 doesn't have.
IGNORED_BEFORE_7 = IGNORED + ",ALLOC_WITH_SIZEOF"


def say(text: str) -> None:
    """A progress line."""
    print(text, flush=True)


def checkpatch(patch: Path, tree: Path, ignored: str) -> list[str]:
    """The complaints of a tree's checkpatch about a patch."""
    status, output = run(
        ["perl", "scripts/checkpatch.pl", "--strict", "--terse", "--no-summary", "--ignore", ignored, str(patch)], tree
    )
    found = [line for line in output.splitlines() if re.search(r": (ERROR|WARNING|CHECK): ", line)]
    return found or ([f"checkpatch: {output.strip()[-300:]}"] if status else [])


def apply(patch: Path, tree: Path, *options: str) -> list[str]:
    """Apply a patch without fuzz; return the problems."""
    status, output = run(
        ["patch", "-p1", "--forward", "--fuzz=0", "--no-backup-if-mismatch", *options], tree, patch.read_text()
    )
    return [f"does not apply:\n{output}"] if status else []


def unneeded(patch: Path, tree: Path) -> list[str]:
    """Complain of a line's own patch where the common one would do the same."""
    common = series.common_one(patch)
    if not common or series.changes(common) != series.changes(patch) or apply(common, tree, "--dry-run"):
        return []
    return [f"is not needed: {series.label(common)} makes the same changes and applies here"]


def wanted_patches(line: str, options: argparse.Namespace) -> list[Path]:
    """All patches of a line, or only the guest's."""
    patches = series.patches_of(line, extra=True, guest=True)
    return series.parts(patches)[1] if options.guest_only else patches


class Check:
    """The patches of a line, one after the other, in a tree that may be changed."""

    def __init__(self, line: str, tree: Path, options: argparse.Namespace) -> None:
        self.tree, self.options = tree, options
        self.patches = wanted_patches(line, options)
        self.files = {}
        for part in series.parts(self.patches):
            self.files.update(dict.fromkeys(part, series.touched(part)))
        self.ignored = IGNORED if int(line.split(".")[0]) >= 7 else IGNORED_BEFORE_7
        self.sparse = compiling.has_sparse(tree) and not options.no_sparse

    def run(self) -> int:
        """Check all; return the number of problems. TestbedError: the tree can't be compiled at all."""
        say("     configuring")
        compiling.configure(self.tree)
        if not self.sparse:
            say("SKIP sparse: not installed, too old for this kernel, or not wanted")
        return self._patches() + self._device_trees()

    def _patches(self) -> int:
        total = 0
        for patch in self.patches:
            failed, problems, done = self._patch(patch)
            total += len(problems)
            self._report(series.label(patch), problems, done)
            if failed:
                break
        return total

    def _patch(self, patch: Path) -> tuple[bool, list[str], str]:
        """Return whether it failed to apply, all problems, and what was done with it."""
        start, done = time.monotonic(), ["applied"]
        problems = series.check_header(patch) + checkpatch(patch, self.tree, self.ignored)
        problems += unneeded(patch, self.tree)
        failed = apply(patch, self.tree)
        if not failed and re.search(r"^\+\+\+ b/(?!tools|Documentation).*\.[ch]$", patch.read_text(), re.M):
            problems += compiling.compile_objects(self.tree, self.files[patch], self.options.jobs, self.sparse)
            count = len(compiling.objects(self.tree, self.files[patch]))
            done.append(f"{count} objects with W=1" + (" and sparse" if self.sparse else ""))
        if not failed and patch == self.patches[-1]:
            problems += compiling.compile_selftest(self.tree, series.touched(self.patches))
            done.append("selftest")
        return bool(failed), problems + failed, f"{', '.join(done)}; {time.monotonic() - start:.0f} s"

    def _device_trees(self) -> int:
        sources = compiling.device_trees(self.tree)
        if not sources:
            say(f"SKIP device trees: not NXP's kernel, it has no {compiling.NXP_ONLY.name}")
        total = 0
        for source in sources:
            problems = compiling.compile_device_tree(self.tree, source)
            total += len(problems)
            self._report(source.name, problems, "compiled against this kernel's .dtsi")
        return total

    @staticmethod
    def _report(what: str, problems: list[str], done: str) -> None:
        say(f"FAIL {what}" if problems else f"ok   {what}: {done}")
        for problem in problems:
            say(f"     {problem}")


def check_tree(tree: Tree, options: argparse.Namespace) -> str:
    """Check a line against one tree; return a line of the table."""
    with tempfile.TemporaryDirectory(dir=options.work, prefix=f"kernel-check-{tree.line}-") as name:
        label = f"{tree.line} on {tree.name}"
        say(f"---- {label}: {'copying ' + str(tree.folder) if tree.folder else 'fetching'}")
        try:
            copy = tree.copy_into(Path(name))
        except TestbedError as error:
            return f"SKIP {label}: {error}"
        label += f" ({version(copy)})"
        try:
            problems = Check(tree.line, copy, options).run()
        except TestbedError as error:
            say(str(error))
            return f"FAIL {label}: {str(error).splitlines()[0]}"
    return (
        f"{'FAIL' if problems else 'ok  '} {label}: "
        f"{len(wanted_patches(tree.line, options))} patches, {problems} problem(s)"
    )


def wanted_trees(options: argparse.Namespace) -> tuple[list[Tree], list[str]]:
    """The trees to check, and a line of the table for each line without any."""
    given = [parse(text) for text in options.trees]
    chosen = options.line or ([t.line for t in given] if options.given_only else series.lines())
    trees, skipped = [], []
    for line in sorted(set(chosen), key=chosen.index):
        found = [tree for tree in given if tree.line == line]
        if line in DEBIAN and not options.given_only:
            found.insert(0, Tree(line, f"Debian {DEBIAN[line]}"))
        if not found:
            skipped.append(f"SKIP {line}: Debian has no such kernel, and no tree was given: {line}=FOLDER")
        trees += found
    return trees, skipped


def check(options: argparse.Namespace) -> int:
    """Check every line whose source is at hand; say which ones are not."""
    trees, table = wanted_trees(options)
    table += [check_tree(tree, options) for tree in trees]
    say("----\n" + "\n".join(table))
    return int(any(row.startswith("FAIL") for row in table))
