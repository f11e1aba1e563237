# SPDX-License-Identifier: MIT
"""The image tests by oe-core's own ``oe-test runtime``, against the testbed's Dom0.

Lays out what testexport.bbclass exports, without a build, and runs it with the target "simpleremote",
as it would run against a board.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from . import evidence, keys, layout, machine, process
from .cache import say
from .deadline import wait_until
from .errors import TestbedError

LAYER_LIB = layout.REPOSITORY / "lib"
FROM_OE_CORE = {  # export's path -> oe-core's; as in testexport.bbclass
    "oe-test": "scripts/oe-test",
    "lib/argparse_oe.py": "scripts/lib/argparse_oe.py",
    "lib/scriptutils.py": "scripts/lib/scriptutils.py",
    **{f"meta/lib/oeqa/{part}": f"meta/lib/oeqa/{part}" for part in ("core", "runtime", "files", "utils")},
}
TEST_DATA = {
    "MACHINE": "qemuarm64",
    "DISTRO": "testbed",
    "IMAGE_BASENAME": "testbed-dom0",
    "MLPREFIX": "",
    "DISTRO_FEATURES": "systemd wayland xen xen-dmabuf",
    "IMAGE_FEATURES": "",
    "VIRTUAL-RUNTIME_init_manager": "systemd",
}
PACKAGES = ("xen-dmabuf-backend", "xen-dmabuf-backend-ptest", "weston", "weston-examples", "xen-tools-xl")


def suites() -> list[str]:
    """The modules that TEST_SUITES gets from the image recipe."""
    return sorted(p.stem for p in (LAYER_LIB / "oeqa/runtime/cases").glob("xen_dmabuf_*.py"))


def export(oe_core: Path, target: Path, test_data: dict[str, str]) -> Path:
    """Fill ``target`` like testexport does; its oe-test. Raises TestbedError if that is no oe-core."""
    if not (oe_core / "scripts/oe-test").exists():
        raise TestbedError(f'"{oe_core}" is not openembedded-core: it has no scripts/oe-test; set OE_CORE to its clone')
    shutil.rmtree(target, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for name, source in FROM_OE_CORE.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (oe_core / source).is_dir():
            shutil.copytree(oe_core / source, target / name, ignore=ignored)
        else:
            shutil.copy2(oe_core / source, target / name)
    for part in ("runtime", "files"):
        shutil.copytree(LAYER_LIB / "oeqa" / part, target / "meta-xen-dmabuf/lib/oeqa" / part, ignore=ignored)
    (target / "data").mkdir()
    (target / "data/testdata.json").write_text(json.dumps(test_data), encoding="utf-8")
    (target / "data/manifest").write_text("".join(f"{name} aarch64 0\n" for name in PACKAGES), encoding="utf-8")
    return target / "oe-test"


def command(oe_test: Path, *arguments: str) -> list[str]:
    """``oe-test runtime`` on the exported cases of this layer, to be run in the export's folder."""
    # scarthgap's oe-test does not look into the layers' lib folders itself
    return [
        "env",
        "PYTHONPATH=meta/lib:meta-xen-dmabuf/lib",
        sys.executable,
        str(oe_test),
        "runtime",
        "--json-result-dir",
        "results",
        *arguments,
        "meta-xen-dmabuf/lib/oeqa/runtime/cases",
    ]


@contextlib.contextmanager
def agent() -> Iterator[dict[str, str]]:
    """An SSH agent with the testbed's key: oe-test's ssh has no option for one. Gives the environment."""
    socket = keys.folder() / f"agent.{os.getpid()}"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as running:
        environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
        try:
            wait_until(socket.exists, 10, "ssh-agent")
            process.run(["ssh-add", "-q", str(keys.folder() / "client")], what="ssh-add", env=environment)
            yield environment
        finally:
            running.terminate()


def run(oe_core: Path, folder: Path, tests: list[str]) -> int:
    """Boot, export, run; oe-test's own words go through. Returns its exit status."""
    images = machine.build()
    oe_test = export(
        oe_core, folder / "export", {**TEST_DATA, **evidence.test_data(), "TEST_SUITES": " ".join(tests or suites())}
    )
    with machine.boot(images, folder) as (qemu, _dom0), agent() as environment:
        say(f"oe-test runtime: {oe_core}")
        return subprocess.run(
            command(oe_test, "--target-ip", f"127.0.0.1:{qemu.ports['dom0']}", "--server-ip", "127.0.0.1"),
            cwd=oe_test.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode
