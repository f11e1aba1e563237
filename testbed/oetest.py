# SPDX-License-Identifier: MIT
"""The image tests by oe-core's own ``oe-test runtime``, against the testbed's Dom0.

Lays out what testexport.bbclass exports, without a build, and runs it with the target "simpleremote",
as it would run against a board.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from . import evidence, layout, machine
from .cache import say
from .errors import TestbedError
from .guest import Dom0

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


def by_our_connection(dom0: Dom0, folder: Path) -> dict[str, str]:
    """The environment in which ssh and scp, of that folder, go by the testbed's own connection to Dom0: oe-test's have
    no option for a key, and another connection for each command costs an emulated Dom0 a second."""
    options = shlex.join(word for word in dom0.ssh_command() if word.startswith("-o"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("ssh", "scp"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {shutil.which(name)} {options} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def run(oe_core: Path, folder: Path, tests: list[str]) -> int:
    """Boot, export, run; oe-test's own words go through. Returns its exit status."""
    images = machine.build()
    oe_test = export(
        oe_core, folder / "export", {**TEST_DATA, **evidence.test_data(), "TEST_SUITES": " ".join(tests or suites())}
    )
    with machine.boot(images, folder) as (qemu, dom0):
        say(f"oe-test runtime: {oe_core}")
        return subprocess.run(
            command(oe_test, "--target-ip", f"127.0.0.1:{qemu.ports['dom0']}", "--server-ip", "127.0.0.1"),
            cwd=oe_test.parent,
            env=by_our_connection(dom0, folder / "bin"),
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode
