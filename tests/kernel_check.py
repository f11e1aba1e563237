#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Check a kernel series: does it apply exactly, does each patch compile, is it clean?

The source tree is copied, never changed. It must have a .config with
CONFIG_XEN_GNTDEV_DMABUF=y; with its objects in place the check takes minutes.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent / "kernel-patches"
OBJECTS = [
    "drivers/dma-buf/dma-buf.o",
    "drivers/xen/grant-table.o",
    "drivers/xen/gntdev.o",
    "drivers/xen/gntdev-dmabuf.o",
]
# Every driver of gntdev is covered by "F: drivers/xen/" in MAINTAINERS already.
IGNORED = "FILE_PATH_CHANGES"


def patches_of(series: str) -> list[pathlib.Path]:
    """Return the patches of a series in the order in which they are applied."""
    found = sorted((ROOT / series).glob("[0-9]*.patch"))
    if not found:
        known = ", ".join(sorted(p.name for p in ROOT.iterdir() if p.is_dir()))
        sys.exit(f"kernel_check: no patches for '{series}'; there are: {known}")
    return found


def check_header(patch: pathlib.Path) -> list[str]:
    """Return what is missing from a patch's description."""
    text = patch.read_text()
    wanted = {
        "Upstream-Status": r"^Upstream-Status: (Pending|Submitted|Backport|Inappropriate|Denied)",
        "Signed-off-by": r"^Signed-off-by: .+ <.+@.+>$",
    }
    return [f"no valid {name}" for name, pattern in wanted.items() if not re.search(pattern, text, re.M)]


def run(command: list[str], tree: pathlib.Path, stdin: str | None = None) -> tuple[int, str]:
    """Run a command in the tree; return its status and everything it printed."""
    done = subprocess.run(command, cwd=tree, input=stdin, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def apply(patch: pathlib.Path, tree: pathlib.Path) -> list[str]:
    """Apply a patch without fuzz; return the problems."""
    status, output = run(["patch", "-p1", "--fuzz=0", "--no-backup-if-mismatch"], tree, patch.read_text())
    return [f"does not apply:\n{output}"] if status else []


def compile_objects(tree: pathlib.Path, jobs: int, sparse: bool) -> list[str]:
    """Compile what the series touches with W=1; return warnings and errors in these files."""
    objects = list(OBJECTS)
    if (tree / "drivers/xen/gntdev-dmabuf-map.c").exists():
        objects.append("drivers/xen/gntdev-dmabuf-map.o")
    for name in objects:
        (tree / name).unlink(missing_ok=True)
    status, output = run(["make", f"-j{jobs}", "W=1", *(["C=1"] if sparse else []), *objects], tree)
    ours = re.compile(r"(drivers/xen/|drivers/dma-buf/|include/(uapi/)?xen/|linux/dma-buf\.h).*(warning|error):")
    problems = [line for line in output.splitlines() if ours.search(line)]
    if status and not problems:
        problems = ["does not compile:\n" + "\n".join(output.splitlines()[-15:])]
    return problems


def checkpatch(patch: pathlib.Path, tree: pathlib.Path) -> list[str]:
    """Return checkpatch's complaints about a patch."""
    status, output = run(["perl", "scripts/checkpatch.pl", "--strict", "--terse", "--no-summary",
                          "--ignore", IGNORED, str(patch)], tree)
    return [line for line in output.splitlines() if re.search(r": (ERROR|WARNING|CHECK): ", line)] if status else []


def check(series: str, tree: pathlib.Path, options: argparse.Namespace) -> int:
    """Check all patches of a series one after the other; return the number of problems."""
    total = 0
    for patch in patches_of(series):
        problems = check_header(patch) + checkpatch(patch, tree)
        failed = apply(patch, tree)
        problems += failed or compile_objects(tree, options.jobs, not options.no_sparse)
        print(f"{'ok  ' if not problems else 'FAIL'} {series}/{patch.name}", flush=True)
        for problem in problems:
            print(f"     {problem}")
        total += len(problems)
        if failed:
            break
    return total


def main() -> int:
    """Parse the command line and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- tests/kernel_check.py --series 6.12 linux-6.12/")
    parser.add_argument("source", type=pathlib.Path, help="kernel source with .config, without the series")
    parser.add_argument("--series", default="6.12", help="folder of kernel-patches/ (default: %(default)s)")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("kernel-check.tmp"),
                        help="where the copy goes; it must not exist (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="jobs of make (default: %(default)s)")
    parser.add_argument("--no-sparse", action="store_true", help="don't run sparse, e.g. if it is older than the kernel wants")
    options = parser.parse_args()

    if not (options.source / ".config").is_file():
        parser.error(f"{options.source} has no .config: configure it first, with CONFIG_XEN_GNTDEV_DMABUF=y")
    if "CONFIG_XEN_GNTDEV_DMABUF=y" not in (options.source / ".config").read_text():
        parser.error(f"{options.source}/.config lacks CONFIG_XEN_GNTDEV_DMABUF=y")
    if options.work.exists():
        parser.error(f"{options.work} exists: remove it, or give another one with --work")

    patches_of(options.series)
    subprocess.run(["cp", "-a", "--reflink=auto", options.source, options.work], check=True)
    try:
        problems = check(options.series, options.work, options)
    finally:
        shutil.rmtree(options.work)
    print(f"{problems} problem(s)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
