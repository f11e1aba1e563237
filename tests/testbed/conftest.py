# SPDX-License-Identifier: MIT
"""One booted machine for all tests that need it.

Without QEMU or the images these tests fail: they never pass or skip silently. A lost virtual
machine ends the run with its own message, since it says nothing about the product.
"""

from types import SimpleNamespace

import pytest

from testbed import machine
from testbed.display import DomU, Scene
from testbed.errors import LostVMError
from testbed.evidence import Claim, Evidence, Watching, collect, test_data
from testbed.guest import Target
from testbed.layout import REPOSITORY
from testbed.qemu import TEST_SCREEN

FOLDER = REPOSITORY / "build" / "test"


@pytest.fixture(scope="session")
def booted():
    """(Qemu, Dom0), booted once."""
    with machine.boot(machine.build(), FOLDER, TEST_SCREEN) as running:
        yield running


@pytest.fixture(scope="session")
def image_tests(booted):
    """Gives lib/oeqa's cases the booted Dom0 as their target."""
    from oeqa.runtime.case import OERuntimeTestCase

    OERuntimeTestCase.tc = SimpleNamespace(target=Target(booted[1]), td=test_data(), dom0=booted[1])


@pytest.fixture
def scene(booted):
    """A scene without any DomU; what a test leaves running is destroyed."""
    qemu, dom0 = booted
    domu = DomU(qemu, dom0)
    yield Scene(qemu, dom0, domu, qemu.folder)
    for domain in dom0.domains():
        dom0.try_run(f"xl destroy {domain['domid']}")
    domu.forget()


@pytest.fixture
def look(scene):
    """look(cases, method, …): the image's cases hold on the machine's own screen, what QEMU scans out."""

    def held(cases, *methods):
        findings = Findings()
        claims = [Claim(method, cases, method) for method in methods]
        target = Watching(scene.machine, scene.dom0)
        failed = collect(target, claims, findings, machine=scene.machine, film=lambda *_: None)
        assert not failed, f"{findings.last.claim.sentence}: {failed}"

    return held


class Findings:
    """A reader of evidence that keeps the last piece."""

    def begin(self, claim):
        self.last = Evidence(claim, False, "not looked into")

    def end(self, evidence):
        self.last = evidence


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
