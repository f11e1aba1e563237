# SPDX-License-Identifier: MIT
"""What is done before a machine boots, without one."""

import os
import subprocess

import pytest

from testbed import machine
from testbed.qemu import Images

SIZE = 3 << 20


@pytest.fixture
def disk(tmp_path):
    """A file that the host doesn't have in its memory; a file system without a disk can't have that."""
    file = tmp_path / "disk"
    file.write_bytes(os.urandom(SIZE))
    with file.open() as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(file):
        pytest.skip(f"{tmp_path} is in memory")
    return file


def in_memory(file):
    """How many bytes of a file the host has in its memory."""
    words = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(file)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


class StartedError(Exception):
    """QEMU would run."""


def test_disks_are_in_memory_before_an_icount_machine_boots(disk, monkeypatch, tmp_path):
    def start(*_words, **_options):
        raise StartedError

    monkeypatch.setattr(machine, "require_qemu", lambda: None)
    monkeypatch.setattr(machine, "Qemu", start)
    images = Images(xen=disk, kernel=disk, dom0=disk, domu=disk)
    with pytest.raises(StartedError), machine.boot(images, tmp_path, icount=True):
        pass
    assert in_memory(disk) == SIZE
