# SPDX-License-Identifier: MIT
"""One booted machine for all tests that need it.

Without QEMU or the images these tests fail: they never pass or skip silently. A lost virtual
machine ends the run with its own message, since it says nothing about the product.
"""

import pytest

from testbed import machine
from testbed.display import DomU
from testbed.errors import LostVMError
from testbed.layout import REPOSITORY
from testbed.proofs import Scene

FOLDER = REPOSITORY / "build" / "test"


@pytest.fixture(scope="session")
def booted():
    """(Qemu, Dom0), booted once."""
    with machine.boot(machine.build(), FOLDER) as running:
        yield running


@pytest.fixture
def scene(booted):
    """A scene without any DomU; what a test leaves running is destroyed."""
    qemu, dom0 = booted
    domu = DomU(qemu, dom0)
    yield Scene(qemu, dom0, domu, FOLDER)
    for domain in dom0.domains():
        dom0.try_run(f"xl destroy {domain['domid']}")
    domu.forget()


@pytest.fixture
def pattern_scene(scene):
    """A scene whose DomU shows the test pattern."""
    scene.domu.start_pattern()
    return scene


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A lost machine stops the run: the remaining tests would only repeat it."""
    report = yield
    if call.excinfo is not None and call.excinfo.errisinstance(LostVMError):
        item.session.shouldstop = f"THE VIRTUAL MACHINE WAS LOST during {item.nodeid}: nothing was found out"
    return report
