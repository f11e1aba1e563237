# SPDX-License-Identifier: MIT
"""The image's own cases (lib/oeqa) on the testbed, one after the other, and what each has seen.

The demo and the tests of special machines run them so; tests/testbed/test_image.py has them run by pytest.
"""

from __future__ import annotations

import itertools
import time
import traceback
import unittest
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

from oeqa.runtime.case import OERuntimeTestCase
from PIL import Image

from oeqa.runtime.xen_dmabuf import picture
from oeqa.runtime.xen_dmabuf.case import XenDmabufCase

from . import debian, debianroot
from .errors import LostVMError
from .guest import Dom0, Target
from .qemu import Qemu

Row = list[tuple[str, "picture.Picture"]]
"""(Caption, picture) pairs that belong side by side."""


@dataclass(frozen=True)
class Claim:
    """A sentence, and the case that shows it: a class of cases and the name of one of its methods."""

    sentence: str
    cases: type[XenDmabufCase]
    method: str


@dataclass
class Evidence:
    """What a case found out."""

    claim: Claim
    held: bool = True
    seen: str = ""
    seconds: float = 0.0
    pictures: list[Row] = field(default_factory=list)


class Watching(Target):
    """Dom0 as an oeqa target whose screen is looked at from outside: it is what QEMU's virtio-gpu scans out."""

    def __init__(self, machine: Qemu, dom0: Dom0) -> None:
        super().__init__(dom0)
        self.machine = machine

    def see_screen(self) -> picture.Picture:
        """The first output."""
        file = self.machine.folder / "screen.png"
        self.machine.screenshot(file)
        with Image.open(file) as image:
            pixels, length = image.convert("RGB").tobytes(), 3 * image.width
        return [pixels[start : start + length] for start in range(0, len(pixels), length)]


class Reader(Protocol):
    """Who is told of evidence as it is found."""

    def begin(self, claim: Claim) -> None:
        """What is looked into now, with the start of its DomU."""

    def end(self, evidence: Evidence) -> None:
        """What was found out."""


def test_data() -> dict[str, str]:
    """What the image's test data say where an image was built: of the exporter, as the suite's Mesa has it."""
    return {"XEN_DMABUF_EXPORT": "refused" if debianroot.suite() == debian.SUITE else "mapped"}


def collect(target: Target, claims: Sequence[Claim], reader: Reader, **context: Any) -> str:
    """Run the cases of claims in their order until one doesn't hold. What didn't, "" if all did.

    Cases of a class that follow each other have its DomU in common. What a class leaves and can't remove is no claim's
    fault, but it is returned, too. ``context``: what ``tc`` has besides for cases of the testbed's. Raises LostVMError.
    """
    before = OERuntimeTestCase.tc
    OERuntimeTestCase.tc = SimpleNamespace(target=target, td=test_data(), **context)
    result = _Result(reader)
    try:
        for _cases, group in itertools.groupby(claims, key=lambda claim: claim.cases):
            result.look_into(list(group))
            if result.failed:
                break
    finally:
        OERuntimeTestCase.tc = before
    if result.lost:
        raise result.lost
    return result.failed


class _Result(unittest.TestResult):
    """Evidence for each claim, up to the first that doesn't hold: its case failed or was skipped, or its class couldn't
    be set up. ``failed`` says why."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.failfast = True
        self.failed = ""
        self.lost: LostVMError | None = None
        self._reader = reader
        self._left: list[Claim] = []
        self._began: float = 0

    def look_into(self, claims: list[Claim]) -> None:
        """All of one class."""
        self._left = claims
        self._begin()
        unittest.TestSuite(claim.cases(claim.method) for claim in claims).run(self)

    def _begin(self) -> None:
        self._began = time.monotonic()
        if self._left and not self.failed:
            self._reader.begin(self._left[0])

    def _end(self, seen: str, pictures: Iterable[Row] = ()) -> None:
        took = round(time.monotonic() - self._began, 1)
        self._reader.end(Evidence(self._left.pop(0), not self.failed, seen, took, list(pictures)))
        self._begin()

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802 (unittest's name)
        super().stopTest(test)
        assert isinstance(test, XenDmabufCase)
        self._end(self.failed or "; ".join(test.seen) or "it held", test.pictures.values())

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self._fail(test, err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self._fail(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self.stop()
        self._fail(test, (unittest.SkipTest, unittest.SkipTest(f"skipped: {reason}"), None))

    def _fail(self, test: object, err: Any) -> None:
        kind, error, _trace = err
        if issubclass(kind, LostVMError):
            self.lost = error
        if self.failed:
            return
        told = issubclass(kind, (AssertionError, unittest.SkipTest))
        self.failed = str(error) if told else "".join(traceback.format_exception(error))
        # a class's own trouble comes without a test that starts and stops: at its begin, or when all was told
        if not isinstance(test, unittest.TestCase) and self._left:
            self._end(self.failed)
