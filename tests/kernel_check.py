#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Keep the kernel series in step: check them, compare them, carry one to another kernel.

check    per series: descriptions, checkpatch --strict, apply without fuzz, and after each patch
         compile what the series touches with W=1 and sparse. Debian's sources are fetched,
         other trees are given as SERIES=FOLDER; a tree is copied and never changed.
compare  what a series changes otherwise than 6.12's does.
rebase   apply a series to another tree, with less context and 3-way, and write it out.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

# pylint: disable=wrong-import-position
from testbed import cache, layout  # noqa: E402
from testbed.debian import Archive  # noqa: E402
from testbed.errors import TestbedError  # noqa: E402

ROOT = REPOSITORY / "kernel-patches"
REFERENCE = "6.12"
# Series whose kernel is a package of a Debian suite.
DEBIAN = {"6.12": "trixie", "7.2": "sid"}
# Every driver of gntdev is covered by "F: drivers/xen/" in MAINTAINERS already.
IGNORED = "FILE_PATH_CHANGES"
# 6.18's checkpatch asks for kzalloc_obj() from some 6.18.y on, which 6.18.2 doesn't have.
IGNORED_BEFORE_7 = IGNORED + ",ALLOC_WITH_SIZEOF"
SELFTEST = "tools/testing/selftests/drivers/xen"
KUNIT = """
CONFIG_64BIT=y
CONFIG_ARM64_4K_PAGES=y
CONFIG_DEBUG_FS=y
CONFIG_MODULES=y
CONFIG_MODULE_UNLOAD=y
CONFIG_KUNIT=y
CONFIG_KUNIT_ALL_TESTS=y
"""
MAKE = ["make", "ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-", "LOCALVERSION="]


def all_series() -> list[str]:
    """Every series there is, oldest kernel first."""
    return sorted((p.name for p in ROOT.iterdir() if p.is_dir()), key=lambda name: [int(n) for n in name.split(".")])


def patches_of(series: str) -> list[Path]:
    """Return the patches of a series in the order in which they are applied."""
    found = sorted((ROOT / series).glob("[0-9]*.patch"))
    if not found:
        sys.exit(f"kernel_check: no patches for '{series}'; there are: {', '.join(all_series())}")
    return found


def touched(patches: list[Path]) -> list[str]:
    """Every file that one of the patches changes or adds."""
    return sorted({name for patch in patches for name in re.findall(r"^\+\+\+ b/(.*)$", patch.read_text(), re.M)})


def run(command: list[str], folder: Path, stdin: str | None = None, **environment: str) -> tuple[int, str]:
    """Run a command in a folder; return its status and everything it printed."""
    done = subprocess.run(command, cwd=folder, input=stdin, text=True, check=False, env={**os.environ, **environment},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


# --- check ---

def check_header(patch: Path) -> list[str]:
    """Return what is missing from a patch's description."""
    text = patch.read_text()
    wanted = {
        "Upstream-Status": r"^Upstream-Status: (Pending|Submitted|Backport|Inappropriate|Denied)",
        "Signed-off-by": r"^Signed-off-by: .+ <.+@.+>$",
    }
    return [f"no valid {name}" for name, pattern in wanted.items() if not re.search(pattern, text, re.M)]


def checkpatch(patch: Path, tree: Path) -> list[str]:
    """Return checkpatch's complaints about a patch."""
    status, output = run(["perl", "scripts/checkpatch.pl", "--strict", "--terse", "--no-summary",
                          "--ignore", IGNORED if patch.parent.name[0] == "7" else IGNORED_BEFORE_7, str(patch)], tree)
    found = [line for line in output.splitlines() if re.search(r": (ERROR|WARNING|CHECK): ", line)]
    return found or ([f"checkpatch: {output.strip()[-300:]}"] if status else [])


def apply(patch: Path, tree: Path) -> list[str]:
    """Apply a patch without fuzz; return the problems."""
    status, output = run(["patch", "-p1", "--forward", "--fuzz=0", "--no-backup-if-mismatch"], tree, patch.read_text())
    return [f"does not apply:\n{output}"] if status else []


def objects(tree: Path, files: list[str]) -> list[str]:
    """The objects of those touched files that are there; a test that another file includes has none."""
    sources = [name for name in files if re.match(r"drivers/.*\.c$", name) and (tree / name).exists()]
    texts = [(tree / name).read_text() for name in sources]
    return [name[:-1] + "o" for name in sources
            if not any(f'#include "{Path(name).name}"' in text for text in texts)]


def compile_objects(tree: Path, files: list[str], options: argparse.Namespace, sparse: bool) -> list[str]:
    """Compile what the series touches with W=1; return warnings and errors in these files."""
    names = objects(tree, files)
    for name in names:
        (tree / name).unlink(missing_ok=True)
    status, output = run([*MAKE, f"-j{options.jobs}", "W=1", *(["C=1"] if sparse else []), *names], tree)
    ours = re.compile(rf"^(\./)?({'|'.join(re.escape(name) for name in files)}):.*(warning|error):")
    problems = [line for line in output.splitlines() if ours.search(line)]
    if status and not problems:
        problems = ["does not compile:\n" + "\n".join(output.splitlines()[-15:])]
    return problems


def compile_selftest(tree: Path, files: list[str]) -> list[str]:
    """Build the selftest; return warnings and errors."""
    if not any(name.startswith(SELFTEST) for name in files) or not (tree / SELFTEST).exists():
        return []
    (tree / "usr/selftest").mkdir()
    status, output = run([*MAKE, "-s", f"INSTALL_HDR_PATH={tree}/usr", "headers_install"], tree)
    if not status:
        status, output = run([*MAKE, "-s", "-C", SELFTEST, "CC=aarch64-linux-gnu-gcc", "LDFLAGS=-static",
                              f"KHDR_INCLUDES=-isystem {tree}/usr/include", f"OUTPUT={tree}/usr/selftest"], tree)
    problems = [line for line in output.splitlines() if "gntdev_dmabuf" in line and "warning:" in line]
    return [output[-1500:]] if status else problems


def configure(tree: Path, config: str) -> None:
    """A small configuration with everything that the series touches; and what compiling needs.

    TestbedError: the tree can't be configured, for instance since it isn't complete.
    """
    (tree / "check.config").write_text(config)
    for step in (["KCONFIG_ALLCONFIG=check.config", "allnoconfig"], ["-j2", "prepare"]):
        status, output = run([*MAKE, *step], tree)
        if status:
            raise TestbedError(f"make {step[-1]} failed in a copy of the tree:\n{output[-2000:]}")


def has_sparse(tree: Path) -> bool:
    """Does this kernel accept the sparse of this machine?"""
    script = tree / "scripts/checker-valid.sh"
    if not shutil.which("sparse"):
        return False
    return not script.exists() or run(["sh", str(script), "sparse"], tree)[1].strip() != "1"


def check(series: str, tree: Path, options: argparse.Namespace) -> int:
    """Check all patches of a series one after the other; return the number of problems."""
    patches = patches_of(series)
    files = touched(patches)
    configure(tree, layout.KERNEL_FRAGMENTS[0].read_text() + KUNIT)
    sparse = has_sparse(tree) and not options.no_sparse
    if not sparse:
        print(f"SKIP {series}: no sparse, or one that is too old for this kernel", flush=True)
    total = 0
    for patch in patches:
        problems = check_header(patch) + checkpatch(patch, tree)
        failed = apply(patch, tree)
        if not failed and re.search(r"^\+\+\+ b/drivers/.*\.(c|h)$", patch.read_text(), re.M):
            problems += compile_objects(tree, files, options, sparse)
        problems += failed
        if patch == patches[-1] and not failed:
            problems += compile_selftest(tree, files)
        print(f"{'ok  ' if not problems else 'FAIL'} {series}/{patch.name}", flush=True)
        for problem in problems:
            print(f"     {problem}")
        total += len(problems)
        if failed:
            break
    return total


def debian_source(series: str, folder: Path) -> Path:
    """Debian's source of a kernel, unpacked."""
    archive = Archive(DEBIAN[series])
    archive.update()
    archive.unpack([f"linux-source-{series}"], folder / "package")
    tarball = next((folder / "package/usr/src").glob("linux-source-*.tar.xz"))
    subprocess.run(["tar", "-C", str(folder), "-xf", str(tarball)], check=True)
    return next(p for p in folder.glob("linux-source-*") if p.is_dir())


def version(tree: Path) -> str:
    """The kernel's version, from its Makefile."""
    text = (tree / "Makefile").read_text()
    return ".".join(re.search(rf"^{name} = (\d*)", text, re.M)[1] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))


def check_one(series: str, tree: Path | None, options: argparse.Namespace) -> str:
    """Check a series against one tree; return a line of the table."""
    with tempfile.TemporaryDirectory(dir=options.work, prefix=f"kernel-check-{series}-") as name:
        copy = Path(name) / "linux"
        try:
            if tree:
                subprocess.run(["cp", "-a", "--reflink=auto", str(tree), str(copy)], check=True)
                origin = str(tree)
            else:
                copy = debian_source(series, Path(name))
                origin = f"Debian {DEBIAN[series]}"
        except TestbedError as error:
            return f"SKIP {series}: {error}"
        label = f"{series} on {version(copy)} ({origin})"
        print(f"---- {label}", flush=True)
        try:
            problems = check(series, copy, options)
        except TestbedError as error:
            print(error, flush=True)
            return f"FAIL {label}: {str(error).splitlines()[0]}"
    return f"{'FAIL' if problems else 'ok  '} {label}: {len(patches_of(series))} patches, {problems} problem(s)"


def check_all(options: argparse.Namespace) -> int:
    """Check every series whose source is at hand; say which ones are not."""
    given = [tree.split("=", 1) for tree in options.trees]
    for item in given:
        if len(item) != 2 or item[0] not in all_series() or not (Path(item[1]) / "Makefile").is_file():
            sys.exit(f"kernel_check: '{'='.join(item)}' is not SERIES=FOLDER with one of {', '.join(all_series())} "
                     "and the folder of a kernel's source")
    table = []
    for series in options.series or all_series():
        trees: list[Path | None] = [Path(folder).resolve() for name, folder in given if name == series]
        if not trees and series in DEBIAN:
            trees = [None]
        if not trees:
            table.append(f"SKIP {series}: Debian has no such kernel, and no tree was given: {series}=FOLDER")
        table += [check_one(series, tree, options) for tree in trees]
    print("----")
    compare(argparse.Namespace(diff=False))
    print("\n".join(table))
    return int(any(line.startswith("FAIL") for line in table))


# --- compare ---

def changes(patch: Path) -> list[str]:
    """What a patch removes and adds, without context, line numbers and description."""
    lines, wanted = [], False
    for line in patch.read_text().splitlines():
        if line.startswith("diff --git"):
            wanted = True
        if wanted and (line.startswith("+++ ") or re.match(r"[+-](?!--)", line) or line in ("+", "-")):
            lines.append(line)
    return lines


def compare(options: argparse.Namespace) -> int:
    """Print how many changed lines of each series differ from the reference; 1 if its patches do."""
    reference = {patch.name: patch for patch in patches_of(REFERENCE)}
    status = 0
    for series in all_series():
        if series == REFERENCE:
            continue
        names = {patch.name: patch for patch in patches_of(series)}
        for name in sorted(set(names) ^ set(reference)):
            print(f"FAIL {name}: only in {series if name in names else REFERENCE}, not in the other")
            status = 1
        differing = []
        for name in sorted(set(names) & set(reference)):
            diff = [line for line in difflib.unified_diff(changes(reference[name]), changes(names[name]), lineterm="", n=0)
                    if not line.startswith(("---", "+++", "@@"))]
            if diff:
                differing.append(f"{name[:4]}: {len(diff)}")
                if options.diff:
                    print("\n".join(f"{series} {name[:4]} {line}" for line in diff))
        print(f"     {series} against {REFERENCE}, changed lines that differ: {', '.join(differing) or 'none'}")
    return status


# --- rebase ---

def rebase(options: argparse.Namespace) -> int:
    """Carry a series to another tree in a small repository of the touched files."""
    kept = {patch.name: patch for patch in options.keep}
    patches = [kept.get(patch.name, patch) for patch in patches_of(options.source)]
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    repo = Path(tempfile.mkdtemp(prefix="kernel-rebase-"))
    identity = {"GIT_COMMITTER_NAME": "rebase", "GIT_COMMITTER_EMAIL": "rebase@localhost",
                "GIT_AUTHOR_NAME": "rebase", "GIT_AUTHOR_EMAIL": "rebase@localhost"}

    def git(*arguments: str) -> tuple[int, str]:
        return run(["git", *arguments], repo, **identity)

    git("init", "-q")
    # The tree that the series was made for gives a 3-way merge what it needs.
    for tree in [*([options.base] if options.base else []), options.tree]:
        for name in touched(patches):
            target = repo / name
            target.unlink(missing_ok=True)
            if (tree / name).is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(tree / name, target)
        git("add", "-A", "-f")
        git("commit", "-q", "-m", "base", "--allow-empty")
    base = git("rev-parse", "HEAD")[1].strip()
    status, output = git("am", "-3", "-C1", "--committer-date-is-author-date", *[str(patch.resolve()) for patch in patches])
    if status:
        print(f"{output}\nkernel_check: resolve it in {repo}, 'git am --continue', then\n"
              f"git format-patch --zero-commit --no-signature -o {out.resolve()} {base}")
        return 1
    status, output = git("format-patch", "-q", "--zero-commit", "--no-signature", "-o", str(out.resolve()), base)
    for old, patch in zip(sorted(out.glob("[0-9]*.patch")), patches, strict=True):
        old.rename(out / patch.name)
    shutil.rmtree(repo)
    print(f"{len(patches)} patches in {out}")
    return status


def main() -> int:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: tests/kernel_check.py check 6.6=linux-6.6.87 6.18=linux-6.18.44")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("check", help="check every series whose source is at hand")
    command.add_argument("trees", nargs="*", metavar="SERIES=FOLDER", help="kernel source for a series, instead of Debian's")
    command.add_argument("--series", action="append", help="only this one (may be repeated)")
    command.add_argument("--work", type=Path, default=None, help="folder for the copies (default: the testbed's cache)")
    command.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="jobs of make (default: %(default)s)")
    command.add_argument("--no-sparse", action="store_true", help="don't run sparse")
    command.set_defaults(function=check_all)

    command = commands.add_parser("compare", help="compare all series with that of " + REFERENCE)
    command.add_argument("--diff", action="store_true", help="show the lines")
    command.set_defaults(function=compare)

    command = commands.add_parser("rebase", help="carry a series to another kernel")
    command.add_argument("source", help="series to start from")
    command.add_argument("tree", type=Path, help="the other kernel's source, without the series")
    command.add_argument("out", type=Path, help="folder for the patches")
    command.add_argument("--base", type=Path, help="source that the series was made for: makes 3-way merges possible")
    command.add_argument("--keep", type=Path, action="append", default=[],
                         help="take this patch, which fits the other kernel, for the one of that name (may be repeated)")
    command.set_defaults(function=rebase)

    options = parser.parse_args()
    if getattr(options, "work", "") is None:
        options.work = cache.root()
    return options.function(options)


if __name__ == "__main__":
    sys.exit(main())
