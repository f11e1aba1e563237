# SPDX-License-Identifier: MIT
"""Running host commands, with errors that show what failed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import cache
from .errors import TestbedError

TAIL_LINES = 15


def run(
    command: Sequence[str],
    *,
    what: str,
    remedy: str = "",
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    log: Path | None = None,
) -> str:
    """Run a host command and return its output.

    With ``log`` the output goes to that file as it comes. A failure becomes a
    :class:`TestbedError` with the command's last lines and the ``remedy``.
    """
    full_env = {**os.environ, "LC_ALL": "C", **(env or {})}
    done: subprocess.CompletedProcess[str] | subprocess.CompletedProcess[bytes]
    try:
        if log is None:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=full_env,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                errors="replace",
                check=False,
            )
            output = done.stdout
        else:
            with open(log, "w", encoding="utf-8") as sink:
                done = subprocess.run(
                    command,
                    cwd=cwd,
                    env=full_env,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
            output = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        raise TestbedError(
            f'{what}: the command "{command[0]}" is not installed; run "make host-packages" as root'
        ) from error
    if done.returncode:
        tail = "\n  ".join(output.strip().splitlines()[-TAIL_LINES:])
        if "No space left on device" in output or cache.is_full():
            remedy = cache.full_disk()
        raise TestbedError(
            f"{what}: {command[0]} failed with status {done.returncode}"
            f"{'; ' + remedy if remedy else ''}. Its last lines:\n  {tail}"
        )
    return output
