# SPDX-License-Identifier: MIT
"""What is done before a machine boots, without one."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from testbed import machine
from testbed.layout import REPOSITORY
from testbed.qemu import Images

SIZE = 3 << 20


@pytest.fixture
def disks():
    """Two files that the host doesn't have in its memory. /tmp may be one of those that are nowhere else."""
    (REPOSITORY / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=REPOSITORY / "build") as folder:
        files = [Path(folder, name) for name in ("dom0", "domu")]
        for file in files:
            file.write_bytes(os.urandom(SIZE))
            with file.open() as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if any(map(in_memory, files)):
            pytest.skip("LOUD: this repository's folder is in memory only; reading disks ahead is NOT tested")
        yield files


def in_memory(file):
    """How many bytes of a file the host has in its memory."""
    words = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(file)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


class StartedError(Exception):
    """QEMU would run."""


def test_disks_are_in_memory_before_an_icount_machine_boots(disks, monkeypatch, tmp_path):
    def start(*_words, **_options):
        raise StartedError

    monkeypatch.setattr(machine, "require_qemu", lambda: None)
    monkeypatch.setattr(machine, "Qemu", start)
    dom0, domu = disks
    images = Images(xen=dom0, kernel=dom0, dom0=dom0, domu=domu)
    with pytest.raises(StartedError), machine.boot(images, tmp_path, icount=True):
        pass
    assert [in_memory(disk) for disk in disks] == [SIZE, SIZE]
