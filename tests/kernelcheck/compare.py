# SPDX-License-Identifier: MIT
"""What the lines' own patches change otherwise than the others'."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from . import series


def reference(patch: Path) -> Path | None:
    """What a line's own patch is compared with: the common one, else the one of the newest line."""
    newest = {p.name: p for p in series.patches_of(series.lines()[-1], extra=True, guest=True)}
    other = series.common_one(patch) or newest.get(patch.name)
    return other if other != patch else None


def difference(patch: Path, other: Path) -> list[str]:
    """The changed lines in which two patches differ."""
    diff = difflib.unified_diff(series.changes(other), series.changes(patch), lineterm="", n=0)
    return [line for line in diff if not line.startswith(("---", "+++", "@@"))]


def missing() -> list[str]:
    """A sentence for each patch that one line has and another has not."""
    names = {line: {p.name for p in series.patches_of(line, extra=True, guest=True)} for line in series.lines()}
    every = set().union(*names.values())
    return [f"FAIL {name}: not in {line}" for line in names for name in sorted(every - names[line])]


def compare(options: argparse.Namespace) -> int:
    """Print how much the lines' own patches differ; 1 if a line lacks a patch that another has."""
    for line in series.lines():
        for patch in series.patches_of(line, extra=True, guest=True):
            other = reference(patch)
            if patch.parent.name != line or not other:
                continue
            diff = difference(patch, other)
            print(f"     {series.label(patch)}: {len(diff)} changed lines otherwise than {series.label(other)}")
            if options.diff:
                print("\n".join(f"         {text}" for text in diff))
    problems = missing()
    print("\n".join(problems) or "ok   every line has every patch")
    return int(bool(problems))
