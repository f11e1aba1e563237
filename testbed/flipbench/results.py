# SPDX-License-Identifier: MIT
"""Rows that were measured, a file each: an interrupted bench goes on where it was."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import cache, layout
from ..qemu import Images
from . import programs
from .figures import Figures, figures
from .in_dom0 import Seen, Span
from .rows import Row

MEASURED_BY = Path(__file__).parent


@dataclass(frozen=True)
class Result:
    """A measured row."""

    row: Row
    commit: str
    """Of this repository when it was measured, with "+" if files differed from it."""
    key: str
    """Of everything that the figures depend on."""
    seen: Seen

    @property
    def figures(self) -> Figures:
        """What was seen, a flip."""
        return figures(self.seen)

    def plain(self) -> dict[str, Any]:
        """All of it for JSON, which has no NaN."""
        values = asdict(self.figures)
        return asdict(self) | {"figures": {name: None if math.isnan(v) else v for name, v in values.items()}}


def commit() -> str:
    """The checked-out commit, shortened, with a "+" if tracked files were changed."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=layout.REPOSITORY, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    head = git("rev-parse", "--short=10", "HEAD") or "unknown"
    return head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def key(images: Images) -> str:
    """Digest of the images and of what measures."""
    products = [path.parent.name for path in (images.xen, images.kernel, images.dom0)]
    sources = cache.digest([MEASURED_BY / name for name in ("in_dom0.py", "machine.py", "rows.py")])
    return "-".join([*products, programs.build().name, sources[:16]])


def write(folder: Path, result: Result) -> None:
    """Keep it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result.plain(), indent=1)
    (folder / f"{result.row.name}.json").write_text(text + "\n", encoding="utf-8")


def read(folder: Path, row: Row) -> Result | None:
    """What was kept for that row, of whatever key; None: nothing."""
    try:
        values = json.loads((folder / f"{row.name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    seen = values["seen"]
    for name in ("flipping", "idle"):
        seen[name] = Span(**seen[name])
    return Result(row, values["commit"], values["key"], Seen(**seen))
