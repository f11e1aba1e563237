# SPDX-License-Identifier: MIT
"""What a process loads before it serves: each module is instructions that a DomU's screen waits for.

docs/performance.md has what starts cost; `make flip-bench` measures them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import xen_dmabuf

SOURCES = str(Path(xen_dmabuf.__file__).parent.parent)
LISTED = "import sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before), sep='\\n')"
# as __main__.py and cli/main.py do it
WITHOUT_SSL = "sys.modules['ssl'] = None; "
COMPOSITOR = ("pywayland", "xen_dmabuf.worker.compositor", "xen_dmabuf.worker.window")
"""Loaded in a thread, when the rings are served."""
BIG = ("_ssl", "argparse", "datetime", "email", "multiprocessing", "pickle", "uuid", "xml")
"""Of Python's library; each takes milliseconds, and nobody here needs them to serve."""


def loaded(code: str) -> set[str]:
    """Names of the modules that a fresh Python loads for some code."""
    script = f"import sys; sys.path.insert(0, {SOURCES!r}); " + LISTED.format(code=code)
    # not isolated (-I): systemd's module is the environment's
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "needed", "too_much"),
    [
        pytest.param(
            "import xen_dmabuf.worker.received, xen_dmabuf.worker.firstaid",
            "xen_dmabuf.displif.ring",
            (*BIG, *COMPOSITOR, "asyncio", "dataclasses", "json", "logging", "pathlib", "re", "typing"),
            id="first aid",
        ),
        pytest.param(
            WITHOUT_SSL + "import xen_dmabuf.worker.main, xen_dmabuf.worker.gpu, xen_dmabuf.worker.caches",
            "xen_dmabuf.worker.worker",
            (*BIG, *COMPOSITOR, "pathlib", "systemd.journal", "tomllib", "xen_dmabuf.supervisor"),
            id="worker",
        ),
        pytest.param(
            WITHOUT_SSL
            + "import xen_dmabuf.supervisor.supervisor, xen_dmabuf.supervisor.units, xen_dmabuf.supervisor.xenstore",
            "xen_dmabuf.supervisor.device",
            (*BIG, *COMPOSITOR, "ctypes", "mmap", "tomllib", "xen_dmabuf.worker", "xen_dmabuf.linux"),
            id="supervisor",
        ),
        pytest.param(
            "import xen_dmabuf.cli.main, xen_dmabuf.cli.query, xen_dmabuf.cli.report",
            "argparse",
            ("asyncio", "dataclasses", "inspect", "pathlib", "tomllib", "xen_dmabuf.config", "xen_dmabuf.link"),
            id="status",
        ),
    ],
)
def test_a_process_loads_only_what_it_serves_with(code, needed, too_much):
    modules = loaded(code)
    assert needed in modules, "what it asks for has another name now"
    assert not modules & set(too_much)
