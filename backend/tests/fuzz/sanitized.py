# SPDX-License-Identifier: MIT
"""`python -m fuzz.sanitized [--inputs N] [--seed N]`: target pump with the sanitizers in its C.

The address sanitizer has to be in the process from its beginning, so this builds the module and starts
another Python. Exit status and output are those of `python -m fuzz`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import xen_dmabuf

from . import MODULE_PATH

_BUILD = Path(xen_dmabuf.__file__).parents[2] / "pump_build.py"


def missing() -> str:
    """What can't be had here, as where only the package's tests are; "" if it can."""
    if not shutil.which("gcc"):
        return "gcc is not installed"
    return "" if _BUILD.exists() else f"{_BUILD} is not here"


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """`python -m fuzz --target pump` with these arguments, too."""
    library = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, str(_BUILD), "module", folder]
        subprocess.run(build, env=os.environ | {"XEN_DMABUF_SANITIZE": "1"}, check=True)
        module = next(Path(folder).glob("_pump.*.so"))
        sanitizers = {
            "LD_PRELOAD": library.stdout.strip(),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONWARNINGS": "error",
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), str(_BUILD.parent / "src"))),
            MODULE_PATH: str(module),
        }
        return subprocess.run(
            [sys.executable, "-m", "fuzz", "--target", "pump", *arguments],
            env=os.environ | sanitizers,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


if __name__ == "__main__":
    done = run(sys.argv[1:])
    print(done.stdout, end="")
    sys.exit(done.returncode)
