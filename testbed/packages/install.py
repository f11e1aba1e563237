# SPDX-License-Identifier: MIT
"""Putting packages into a root as an image's build does: their scripts run outside of it and are told of it by D."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .. import debianroot, process
from ..debianroot import PRESETS
from ..errors import TestbedError
from .debs import Deb, archive, content


def install(root: Path, debs: Sequence[Deb]) -> None:
    """preinst and files of each, then each postinst and the presets of their units.

    Raises TestbedError: a script failed, or a file is there already, so that the package's would not be the one that
    is run.
    """
    with tempfile.TemporaryDirectory() as name, _programs(root) as path:
        scratch = Path(name)
        for deb in debs:
            process.run(["dpkg-deb", "--control", str(deb.file), str(scratch / deb.name)], what=deb.name)
            _script(scratch / deb.name / "preinst", "install", root, path)
            unpack(root, deb)
        for deb in debs:
            _script(scratch / deb.name / "postinst", "configure", root, path)
        for deb in debs:
            _preset(deb, root, path)


def unpack(root: Path, deb: Deb) -> None:
    """Only the files of a package. Folders that are there stay as they are: in OpenEmbedded's packages "./" is 0777."""
    tar = content(deb.file)
    with archive(tar) as members:
        taken = [m.name for m in members if not m.isdir() and os.path.lexists(root / m.name)]
    if taken:
        raise TestbedError(
            f'package "{deb.name}" brings "{taken[0].removeprefix(".")}", which the root has from elsewhere: '
            "see to it that it gets there once"
        )
    command = ["tar", "-x", "--no-overwrite-dir", "--keep-directory-symlink", "--numeric-owner", "-C", str(root)]
    done = subprocess.run(command, input=tar, capture_output=True, check=False)
    if done.returncode:
        raise TestbedError(f'package "{deb.name}" can\'t be unpacked: {done.stderr.decode(errors="replace").strip()}')


@contextmanager
def _programs(root: Path) -> Iterator[str]:
    """PATH of the scripts: systemctl is the root's own, as it is one of the same version in an image's build."""
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "systemctl"
        words = shlex.join(debianroot.emulated(root, "systemctl"))
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        yield f"{name}:{os.environ['PATH']}:/usr/sbin:/sbin"


def _script(script: Path, argument: str, root: Path, path: str) -> None:
    """Run a script as oe-core's do_rootfs does."""
    if not script.exists():
        return
    outside = {name: str(root) for name in ("D", "OFFLINE_ROOT", "IPKG_OFFLINE_ROOT", "OPKG_OFFLINE_ROOT")}
    process.run([str(script), argument], what=f"{script.name} of {script.parent.name}", env={**outside, "PATH": path})


def _preset(deb: Deb, root: Path, path: str) -> None:
    """As do_rootfs does with the presets of all packages, but for this one's; Debian's are the testbed's to say."""
    units = [
        unit
        for file in deb.files()
        if file.startswith(f"{PRESETS}/")
        for unit in re.findall(r"^enable (\S+)", (root / file).read_text(encoding="utf-8"), re.M)
    ]
    if units:
        words = ["systemctl", f"--root={root}", "--preset-mode=enable-only", "preset", *units]
        process.run(words, what=f"units of {deb.name}", env={"PATH": path})
