# SPDX-License-Identifier: MIT
"""The image's cases one after the other, and what is told of them."""

import pytest
from oeqa.runtime.case import OERuntimeTestCase

from oeqa.runtime.xen_dmabuf.case import XenDmabufCase
from testbed import demo, sources
from testbed.errors import LostVMError
from testbed.evidence import Claim, Watching, collect
from testbed.packages import Packages

RED, BLUE = b"\xff\0\0", b"\0\0\xff"


class Toy:
    """Not collected by pytest: what is in here fails."""

    class Cases(XenDmabufCase):
        @classmethod
        def setUpClass(cls):
            cls.tc.log.append("set up")

        def test_holds(self):
            self.saw("one")
            self.saw("two")
            self.pictures["a"] = [("left", [RED * 2]), ("right", [BLUE * 2])]

        def test_says_nothing(self):
            pass

        def test_fails(self):
            self.fail("it is not so")

        def test_breaks(self):
            raise KeyError("broken")

        def test_is_skipped(self):
            self.skipTest("no such thing here")

        def test_breaks_in_cleanup(self):
            self.addCleanup(self.fail, "in cleanup")

        def test_loses_the_machine(self):
            raise LostVMError("gone")

    class NoDom0(XenDmabufCase):
        @classmethod
        def setUpClass(cls):
            raise AssertionError("no Dom0")

        def test_never_runs(self):
            pass

    class NoKernel(XenDmabufCase):
        @classmethod
        def setUpClass(cls):
            cls().skipTest("no such kernel")

        def test_never_runs(self):
            pass

    class LeavesSomething(Cases):
        @classmethod
        def setUpClass(cls):
            cls.addClassCleanup(cls().fail, "it can't be removed")


class Reader:
    def __init__(self):
        self.begun, self.ended = [], []

    def begin(self, claim):
        self.begun.append(claim.sentence)

    def end(self, evidence):
        self.ended.append((evidence.claim.sentence, evidence.held, evidence.seen))
        self.last = evidence


def collected(*cases):
    reader, log = Reader(), []
    claims = [Claim(f"claim {number}", cls, method) for number, (cls, method) in enumerate(cases)]
    failed = collect(None, claims, reader, log=log)
    return failed, reader, log


def test_all_hold_in_one_set_up_and_tell_what_they_saw():
    failed, reader, log = collected((Toy.Cases, "test_holds"), (Toy.Cases, "test_says_nothing"))
    assert not failed and log == ["set up"]
    assert reader.begun == ["claim 0", "claim 1"]
    assert reader.ended == [("claim 0", True, "one; two"), ("claim 1", True, "it held")]


def test_pictures_are_those_of_the_case():
    _failed, reader, _log = collected((Toy.Cases, "test_holds"))
    assert reader.last.pictures == [[("left", [RED * 2]), ("right", [BLUE * 2])]]


@pytest.mark.parametrize(
    ("cases", "method", "seen"),
    [
        (Toy.Cases, "test_fails", "it is not so"),
        (Toy.Cases, "test_breaks", "KeyError: 'broken'"),
        (Toy.Cases, "test_is_skipped", "skipped: no such thing here"),
        (Toy.Cases, "test_breaks_in_cleanup", "in cleanup"),
        (Toy.NoDom0, "test_never_runs", "no Dom0"),
        (Toy.NoKernel, "test_never_runs", "skipped: no such kernel"),
    ],
)
def test_the_rest_is_not_tried_after_one_that_does_not_hold(cases, method, seen):
    failed, reader, _log = collected((Toy.Cases, "test_holds"), (cases, method), (Toy.Cases, "test_says_nothing"))
    assert seen in failed
    assert reader.begun == ["claim 0", "claim 1"]
    assert [said[:2] for said in reader.ended] == [("claim 0", True), ("claim 1", False)]
    assert seen in reader.last.seen


def test_what_a_class_leaves_is_told_and_no_claim_is_blamed():
    cases = [(Toy.LeavesSomething, "test_holds"), (Toy.LeavesSomething, "test_says_nothing"), (Toy.Cases, "test_holds")]
    failed, reader, log = collected(*cases)
    assert failed == "it can't be removed" and log == []
    assert reader.begun == ["claim 0", "claim 1"]
    assert [held for _claim, held, _seen in reader.ended] == [True, True]


def test_a_class_that_fails_and_leaves_something_is_told_once():
    failed, reader, _log = collected((Toy.LeavesSomething, "test_fails"), (Toy.LeavesSomething, "test_holds"))
    assert failed == "it is not so"
    assert reader.ended == [("claim 0", False, "it is not so")]


def test_a_lost_machine_is_no_failed_claim():
    before = OERuntimeTestCase.tc
    with pytest.raises(LostVMError, match="gone"):
        collected((Toy.Cases, "test_loses_the_machine"), (Toy.Cases, "test_holds"))
    assert OERuntimeTestCase.tc is before


class Screen:
    """A machine that scans out one picture of 2x2 pixels."""

    def __init__(self, folder):
        self.folder = folder

    def screenshot(self, file):
        from PIL import Image

        Image.frombytes("RGB", (2, 2), RED + BLUE + BLUE + RED).save(file)


def test_the_screen_is_read_as_rows_of_red_green_blue(tmp_path):
    assert Watching(Screen(tmp_path), None).see_screen() == [RED + BLUE, BLUE + RED]


@pytest.mark.parametrize("product", [sources.Sources, Packages])
def test_each_claim_of_the_demo_names_a_case(product):
    """A method that was renamed would be found in the middle of a demo only."""
    for claim in demo.claims(product):
        assert callable(getattr(claim.cases, claim.method)), claim
