# SPDX-License-Identifier: MIT
"""Stages, errors and the command line of the testbed, without a machine."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from testbed import cache, kernel, process
from testbed.errors import LostVMError, TestbedError
from testbed.layout import REPOSITORY


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.ENVIRONMENT, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_stage_is_built_once_per_input(folder):
    built = []

    def build(target):
        built.append(target)
        (target / "product").write_text("x")

    first = cache.stage("thing", {"a": "1"}, build)
    assert cache.stage("thing", {"a": "1"}, build) == first
    assert cache.stage("thing", {"a": "2"}, build) != first
    assert len(built) == 2
    assert (first / "product").exists()


def test_a_stage_that_exists_waits_for_no_build_of_another(folder):
    def ring(_number, _frame):
        raise TimeoutError("it waits")

    def build(_target):
        signal.alarm(5)
        assert cache.stage("thing", {"a": "1"}, lambda _target: None) == first
        signal.alarm(0)

    first = cache.stage("thing", {"a": "1"}, lambda _target: None)
    old = signal.signal(signal.SIGALRM, ring)
    try:
        cache.stage("thing", {"a": "2"}, build)
    finally:
        signal.signal(signal.SIGALRM, old)


def test_interrupted_stage_leaves_nothing(folder):
    def build(target):
        (target / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.stage("thing", {}, build)
    assert [p.name for p in folder.iterdir()] == [".thing.lock"]


def test_full_disk_is_one_sentence(folder):
    def build(_target):
        raise OSError(28, "No space left on device")

    with pytest.raises(TestbedError, match=r"thing: no space left .* XEN_DMABUF_CACHE"):
        cache.stage("thing", {}, build)


def test_tool_that_hides_a_full_disk(folder, monkeypatch):
    """GNU tar says "Wrote only 3584 of 10240 bytes" and nothing else."""
    usage = shutil.disk_usage(folder.parent)
    with pytest.raises(TestbedError, match="failed with status 1. Its last"):
        process.run(["false"], what="thing")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4096))
    with pytest.raises(TestbedError, match=r"thing: false failed .* no space left .* XEN_DMABUF_CACHE"):
        process.run(["false"], what="thing")


def test_old_versions_are_pruned(folder):
    for i in range(5):
        cache.stage("thing", {"i": str(i)}, lambda target: None)
    assert len(list(folder.glob("thing-*"))) == cache.KEPT_VERSIONS


def test_digest_sees_content_name_and_mode(tmp_path):
    file = tmp_path / "folder" / "a"
    file.parent.mkdir()
    file.write_text("1")
    digests = {cache.digest([file.parent])}
    file.write_text("2")
    digests.add(cache.digest([file.parent]))
    file.chmod(0o755)
    digests.add(cache.digest([file.parent]))
    file.rename(file.with_name("b"))
    digests.add(cache.digest([file.parent]))
    assert len(digests) == 4
    for left in ("__pycache__", "thing.egg-info", ".ruff_cache", "_pump.abi3.so"):
        (file.parent / left).mkdir()
        (file.parent / left / "a").write_text("left by a build")
    assert cache.digest([file.parent]) in digests
    (tmp_path / "folder" / "link").symlink_to("/dev/null")
    linked = cache.digest([tmp_path / "folder"])
    (tmp_path / "folder" / "link").unlink()
    (tmp_path / "folder" / "link").symlink_to("/dev/zero")
    assert cache.digest([tmp_path / "folder"]) != linked


def test_lost_symbol_is_named(tmp_path):
    config = tmp_path / "config"
    config.write_text("CONFIG_XEN=y\n# CONFIG_DRM is not set\n")
    with pytest.raises(TestbedError, match=r"CONFIG_DRM=y \(is n\)"):
        kernel.check_config(config, {"CONFIG_XEN": "y", "CONFIG_DRM": "y"})


def test_fragments_agree():
    """Two fragments never want different values of one symbol."""
    wanted = {}
    for file in kernel.fragments():
        for name, value in kernel.wanted_symbols([file]).items():
            assert wanted.setdefault(name, value) == value, f"{file}: {name}"


def command_line(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "testbed", *arguments],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_unwritable_cache_is_one_sentence(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    done = command_line("clean-cache", **{cache.ENVIRONMENT: str(blocker / "cache")})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "XEN_DMABUF_CACHE" in done.stderr


def test_help_teaches():
    done = command_line("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("demo", "build", "shell", "clean-cache", "XEN_DMABUF_CACHE"))


def test_killed_qemu_is_a_lost_machine(tmp_path):
    """A machine that ended is told apart from a failed test, with QEMU's own words."""
    from testbed.qemu import Images, Qemu

    missing = tmp_path / "nothing"
    machine = Qemu(Images(missing, missing, missing, missing), tmp_path / "run")
    with pytest.raises(LostVMError, match="QEMU ended with status 1"), machine:
        pass
