#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Keep the kernel patches in order: check them, carry them to another kernel, write them for the list.

A kernel line ("6.12") has the patches of kernel-patches/common/ and of its own folder, sorted by
name; a file of its own takes the place of a common one. Those of extra/ and guest/ are checked
after them.

check    each patch on its own: description, checkpatch --strict, apply without fuzz, compile what the
         series touches with W=1 and sparse; then the selftest, and with NXP's kernel the board's
         device trees. Debian's sources are fetched; a tree of yours is copied and never changed.
compare  what a line's own patches change otherwise than the common ones.
rebase   apply a line's patches (not guest's) to another kernel, and write out those that had to be changed for it.
list     the host's patches for upstream, renumbered, with the cover letter.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

# pylint: disable=wrong-import-position
from kernelcheck import check, compare, mailing_list, rebase  # noqa: E402

from testbed import cache  # noqa: E402

EXAMPLES = """examples:
  make kernel-check TREES="6.6=../linux-6.6.87 6.12:nxp=../linux-imx"
  tests/kernel_check.py check --given 6.12:nxp=../linux-imx
  tests/kernel_check.py compare --diff
  tests/kernel_check.py rebase 7.2 ../linux-7.3 kernel-patches/7.3 --base ../linux-7.2
  tests/kernel_check.py list build/to-post --tree ../linux-7.2
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    _check(commands.add_parser("check", help="check every line whose source is at hand"))
    _compare(commands.add_parser("compare", help="compare the lines' own patches"))
    _rebase(commands.add_parser("rebase", help="carry a line's patches to another kernel"))
    _list(commands.add_parser("list", help="write the patches for the mailing list"))
    return whole


def _check(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "trees",
        nargs="*",
        metavar="LINE[:NAME]=FOLDER",
        help="a kernel's source to check the line's patches against; NAME is for the output",
    )
    command.add_argument("--line", action="append", help="only this line (may be repeated)")
    command.add_argument("--given", dest="given_only", action="store_true", help="only the given trees, not Debian's")
    command.add_argument("--guest", dest="guest_only", action="store_true", help="only the patches of guest/")
    command.add_argument("--work", type=Path, default=cache.root(), help="folder for the copies (default: %(default)s)")
    command.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="jobs of make (default: %(default)s)"
    )
    command.add_argument("--no-sparse", action="store_true", help="don't run sparse")
    command.set_defaults(function=check.check)


def _compare(command: argparse.ArgumentParser) -> None:
    command.add_argument("--diff", action="store_true", help="show the lines")
    command.set_defaults(function=compare.compare)


def _rebase(command: argparse.ArgumentParser) -> None:
    command.add_argument("line", help="the line to start from")
    command.add_argument("tree", type=Path, help="the other kernel's source, without the patches")
    command.add_argument("out", type=Path, help="the other line's folder; a patch that is there already is taken")
    command.add_argument("--base", type=Path, help="source that the patches were made for: makes 3-way merges possible")
    command.add_argument("--extra", action="store_true", help="the patches of extra/ as well")
    command.set_defaults(function=rebase.rebase)


def _list(command: argparse.ArgumentParser) -> None:
    command.add_argument("out", type=Path, help="a new folder")
    command.add_argument("--line", help="the line whose patches are written (default: the newest)")
    command.add_argument("--tree", type=Path, help="a kernel's source: run its checkpatch over the result")
    command.set_defaults(function=mailing_list.write)


def main() -> int:
    """Parse the command line and do it."""
    options = parser().parse_args()
    return options.function(options)


if __name__ == "__main__":
    sys.exit(main())
