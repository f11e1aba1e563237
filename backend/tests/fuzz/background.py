# SPDX-License-Identifier: MIT
"""`make fuzz` in a process of its own, at the lowest priority: processors that idle do it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import xen_dmabuf

INPUTS = 500_000
SEEDS = {"fixed": 1, "random": random.randrange(1 << 32)}
MOST_SECONDS = 1800


class Fuzzing:
    """All targets, INPUTS inputs."""

    def __init__(self, seed: int) -> None:
        folders = [Path(__file__).parents[1], Path(xen_dmabuf.__file__).parents[1]]
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (kill() closes it)
        self._process = subprocess.Popen(
            ["nice", "-n", "19", sys.executable, "-m", "fuzz", "--inputs", str(INPUTS), "--seed", str(seed)],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONWARNINGS": "error"},
            start_new_session=True,  # it has processes of its own, which kill() ends as well
        )

    def end(self) -> int:
        """Wait for it and print what it said; the inputs that were given. AssertionError with its failures."""
        status = self._process.wait(MOST_SECONDS)
        self._output.seek(0)
        output = self._output.read()
        print(output)
        assert not status, output
        *_, done = re.findall(r"(?m)^fuzz: ([\d,]+) inputs, .* 0 failures$", output)
        return int(done.replace(",", ""))

    def kill(self) -> None:
        """Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()
