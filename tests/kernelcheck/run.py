# SPDX-License-Identifier: MIT
"""Running commands whose failure is a finding rather than an error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def run(command: list[str], folder: Path, stdin: str | None = None, **environment: str) -> tuple[int, str]:
    """Run a command in a folder; return its status and everything it printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        input=stdin,
        text=True,
        check=False,
        errors="replace",
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout
