# SPDX-License-Identifier: MIT
"""What the testbed asks of its host: packages for what is done, and a Debian archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import debian, host
from testbed.errors import TestbedError


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program in place of the host's."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def put(name: str, *lines: str) -> Path:
        path = tmp_path / name
        path.write_text("#!/bin/sh\n" + "".join(f"{line}\n" for line in lines))
        path.chmod(0o755)
        return path

    return put


def targets(origin: str) -> list[str]:
    """What apt-get indextargets says on a machine whose distribution this is."""
    return [
        f"echo 'http://security.example/s stable-security main {origin}'",
        f"echo 'http://archive.example/d stable main {origin}'",
    ]


def test_the_archive_is_the_one_of_the_hosts_apt(program, monkeypatch):
    monkeypatch.delenv(debian.ENVIRONMENT, raising=False)
    program("apt-get", *targets("Debian"))
    assert debian.mirror() == "http://archive.example/d"


def test_on_ubuntu_the_sentence_names_the_variable(program, monkeypatch):
    monkeypatch.delenv(debian.ENVIRONMENT, raising=False)
    program("apt-get", *targets("Ubuntu"))
    with pytest.raises(TestbedError, match=debian.ENVIRONMENT):
        debian.mirror()


def test_an_archive_that_is_named_is_taken(program, monkeypatch):
    monkeypatch.setenv(debian.ENVIRONMENT, "https://mirror.example/debian")
    program("apt-get", *targets("Ubuntu"))
    assert debian.mirror() == "https://mirror.example/debian"


@pytest.mark.parametrize("named", ["mirror.example", "https://mirror.example/debian trusted=yes", "trixie"])
def test_what_is_no_address_is_refused(monkeypatch, named):
    """It goes into a line of apt's sources."""
    monkeypatch.setenv(debian.ENVIRONMENT, named)
    with pytest.raises(TestbedError, match=f'{debian.ENVIRONMENT} is "{named}"'):
        debian.mirror()


def test_only_what_is_asked_for_and_missing_is_installed(program, tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    log = tmp_path / "log"
    program("dpkg-query", "echo 'gcc installed'", "echo 'make config-files'")
    program("apt-get", f'echo "$@" >> {log}')
    host.install(["gcc", "make", "weston"])
    assert log.read_text().splitlines() == ["update", "install -y --no-install-recommends make weston"]


def test_whoever_is_not_root_is_told_the_names(program, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    program("dpkg-query", "true")
    program("apt-get", "exit 1")
    with pytest.raises(TestbedError, match="missing: make weston; run this as root"):
        host.install(["make", "weston"])


def test_the_virtual_machine_needs_no_package_of_the_tests():
    assert not set(host.TESTBED) & set(host.TESTS)
