# SPDX-License-Identifier: MIT
"""The base of all cases: a prepared Dom0, DomUs that end with the test, and what must hold after any crash."""

from __future__ import annotations

import json
import re
import unittest

from oeqa.runtime.case import OERuntimeTestCase

from . import picture
from .dom0 import PAGE, RELEASE_SECONDS, SERVICE, Dom0, found, poll
from .domu import DomU

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .dom0 import Json

    Shown = list[tuple[str, picture.Picture]]

# A dead domain's last pages come back from Xen's idle loop; Dom0's caches and slabs breathe.
XEN_SLACK_MIB = 4
DOM0_SLACK_MIB = 24
SHOWN_SECONDS = 20
# from a worker's end to the answers that its frontend waits 3 s for
IN_TIME, TRIES = 2.5, 3
HOSTILE = "/usr/lib/xen-dmabuf-backend/ptest/tests"
_TAP, _ENDED = "/tmp/hostile.tap", "/tmp/hostile.status"
# where Dom0 has two kernels for DomUs, this is the one with the guest's series
GUEST_KERNEL = "/var/lib/xen/images/domu-kernel-guest"


class Noticed(AssertionError):
    """A DomU has noticed what happened to its worker."""


class XenDmabufCase(OERuntimeTestCase):
    """``dom0`` is ready; domu() makes DomUs.

    A case that holds leaves evidence for a reader: ``seen`` are sentences, ``pictures`` rows of what belongs side by
    side, (caption, picture) pairs, by name: a later row of a name is the one that is kept.
    """

    dom0: Dom0
    seen: list[str]
    pictures: dict[str, Shown]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.dom0 = Dom0(cls.tc.target)
        cls.addClassCleanup(cls.dom0.clean_up)
        cls.dom0.prepare()

    def setUp(self) -> None:
        super().setUp()
        self.seen, self.pictures = [], {}

    def saw(self, sentence: str) -> None:
        """A piece of evidence."""
        self.seen.append(sentence)

    @classmethod
    def class_domu(cls, name: str, stream: int) -> DomU:
        """A DomU that ends with the class."""
        domu = DomU(cls.dom0, name, stream)
        cls.addClassCleanup(domu.destroy)
        return domu

    def domu(self, name: str = "xen-dmabuf-1", stream: int = 1) -> DomU:
        """A DomU that ends with the test."""
        domu = DomU(self.dom0, name, stream)
        self.addCleanup(domu.destroy)
        return domu

    @classmethod
    def guest_series(cls) -> dict[str, str]:
        """creation()'s arguments for a DomU with the frontends of the guest's series; SkipTest: the image has none."""
        if cls.tc.td.get("XEN_DMABUF_GUEST_SERIES") == "":
            raise unittest.SkipTest('XEN_DMABUF_GUEST_SERIES is "": the frontends are the plain ones')
        return {"kernel": f'"{GUEST_KERNEL}"'} if cls.dom0.try_run(f"test -e {GUEST_KERNEL}")[0] == 0 else {}

    def assert_shown(
        self, domu: DomU, screen: Json, convert: Callable[[picture.Picture], picture.Picture] | None = None
    ) -> str:
        """Dom0's screen has the frame that a screen's state names, equal in every pixel. Where, in words."""
        self.assertEqual(screen["error"], 0, f"{domu.name}: page flip refused: {screen}")
        frame = picture.frame(screen["width"], screen["height"], screen["stream"], screen["frame"])
        expected = picture.as_kept(convert(frame) if convert else frame, screen["fourcc"])
        what = f"{domu.name}: frame {screen['frame']} of stream {screen['stream']} on Dom0's screen, pixel by pixel"
        drawn = f"What the DomU drew: frame {screen['frame']}"
        return self.assert_found(domu.name, (drawn, lambda: expected), what, fourcc=screen["fourcc"])

    def assert_found(
        self,
        name: str,
        drawn: tuple[str, Callable[[], picture.Picture]],
        what: str,
        seconds: float = SHOWN_SECONDS,
        fourcc: str = "XR24",
    ) -> str:
        """Dom0's screen has a picture, equal in every pixel; both are evidence. Where, in words.

        ``drawn``: a caption, and what gives the picture, asked before each look at the screen; ``fourcc`` of the buffer
        that it was drawn in.
        """
        caption, draw = drawn

        def there() -> tuple[int, int] | None:
            expected, screen = draw(), self.dom0.screenshot()
            self.pictures[name] = [(caption, expected), ("Dom0's screen", screen)]
            return picture.find(picture.as_shown(screen, fourcc), expected)

        x, y = poll(there, seconds, what)
        expected = self.pictures[name][0][1]
        return f"all {len(expected[0]) // 3}x{len(expected)} pixels equal, window at {x},{y}"

    def assert_flips(self, domu: DomU, count: int = 2) -> None:
        """A DomU flips, and its last frame is on the screen."""
        domu.screens("hold")
        for screen in domu.screens(f"flip {count}", 120):
            self.assert_shown(domu, screen)

    def assert_exact_and_in_order(self, domu: DomU) -> None:
        """Frames that a DomU flips to are shown, equal in every pixel, and none is left out."""
        domu.screens("hold")
        numbers = []
        for _ in range(3):
            (screen,) = domu.screens("flip 5", 120)
            where = self.assert_shown(domu, screen)
            numbers.append(screen["frame"])
        self.assertEqual(numbers, [numbers[0], numbers[0] + 5, numbers[0] + 10])
        self.saw(f"frames {', '.join(map(str, numbers))}: {where}")

    def assert_nothing_is_copied(self, domu: DomU, flips: int = 20) -> None:
        """By the backend's own counter, and by what the kernel says of its process."""
        pid = domu.worker()
        before = json.loads(self.dom0.probe("footprint", pid))
        (screen,) = domu.screens(f"flip {flips}", 180)
        after = json.loads(self.dom0.probe("footprint", pid))
        moved = after["read"] - before["read"] + after["written"] - before["written"]
        frame = screen["pitch"] * screen["height"]
        self.assertEqual(domu.state()["pixel_bytes_copied"], 0)
        self.assertEqual((after["mapped"]["dmabuf"], after["mapped"]["drm"]), (0, 0), after)
        self.assertLess(after["mapped"]["gntdev"], 64 * PAGE, after)
        self.assertLess(moved, flips * frame // 100, f"{before} {after}")
        self.saw(
            f"{flips} flips of {frame} bytes: backend's counter 0; worker {pid} has no dma-buf mapped, "
            f"{after['mapped']['gntdev']} bytes of rings, moved {moved} bytes by system calls"
        )

    def assert_grants_equal_pages(self, domu: DomU) -> None:
        """Dom0 has as many grants mapped as the framebuffers have pages, and gives all back with them."""
        domu.screens("hold")
        pages = domu.pages()
        shown = self.dom0.grants(domu.domid)
        domu.stop_pattern()
        poll(lambda: not domu.buffers(), 60, "the release of all display buffers")
        rest = self.dom0.grants(domu.domid)
        domu.resume_pattern()
        domu.wait_for_pattern()
        self.assertEqual(shown - rest, pages, f"{shown} grants while shown, {rest} after release")
        self.saw(
            f"{pages} pages in framebuffers; grants that Dom0 has mapped: {shown} while shown, {rest} (rings) after "
            "release"
        )

    def renew(self, domu: DomU) -> None:
        """A worker that keeps nothing of the last one and has the present configuration; the DomU stays."""
        old = domu.worker()
        self.dom0.run(f"systemctl stop {domu.unit}", 60)
        domu.wait_for_worker(old)
        self.assert_back(domu)

    def assert_back(self, domu: DomU) -> None:
        """Picture back without restarting the DomU: its pattern program runs on a new connection."""
        domu.try_run("xen-dmabuf-pattern send run")  # held, it would not notice that its device is gone
        poll(domu.buffers, 120, f"{domu.name}: display buffers in the backend")
        domu.wait_for_pattern()
        self.assert_flips(domu)

    # -- hostile frontends (backend/tests/on_xen*.py)

    def assert_tap(self, status: int, output: str) -> None:
        """Each of their cases held."""
        self.assertEqual(status, 0, output)
        plan = found(r"^1\.\.(\d+)$", output)
        self.assertEqual(len(re.findall(r"(?m)^ok \d+ ", output)), int(plan[1]), output)

    def start_hostile(self, domu: DomU, program: str) -> None:
        """Run such a program in a DomU, in the background."""
        if domu.try_run(f"test -e {HOSTILE}/{program}")[0]:
            self.skipTest(f"no {HOSTILE}/{program} in the DomU: its image needs xen-dmabuf-backend-hostile")
        domu.run(f"(python3 {HOSTILE}/{program} > {_TAP} 2>&1; echo $? > {_ENDED}) & true")

    def hostile_ended(self, domu: DomU, seconds: int) -> bool:
        """Whether that program ends within a time. It is waited for in the DomU: asking without end costs Dom0 what
        the others need."""
        ended = f"for _ in $(seq {seconds}); do [ -e {_ENDED} ] && break; sleep 1; done; test -e {_ENDED}"
        return domu.try_run(ended)[0] == 0

    def assert_hostile_held(self, domu: DomU) -> None:
        """All cases of the program that has ended."""
        self.assert_tap(int(domu.run(f"cat {_ENDED}")), domu.run(f"cat {_TAP}"))

    def wait_until_gone(self, *domus: DomU) -> None:
        """Wait until neither Xen nor the backend has them."""
        waiting = [domu for domu in domus if not domu.gone]
        if waiting:
            self.dom0.wait_until_gone([domu.domid for domu in waiting], RELEASE_SECONDS)
        for domu in waiting:
            domu.gone = True

    def assert_nothing_left(self, memory: tuple[int, int], *domus: DomU) -> None:
        """What must hold after domains' end: ``memory`` is what Dom0.memory() was before they began."""
        self.wait_until_gone(*domus)
        mapped = self.dom0.mapped_grants()
        left = {domu.domid: mapped[domu.domid] for domu in domus if domu.domid in mapped}
        self.assertEqual(left, {}, "grants of dead domains in Xen's table")

        def no_window() -> bool:
            screen = self.dom0.screenshot()
            self.pictures["afterwards"] = [("Dom0's screen afterwards", screen)]
            return not any(picture.has_stream(screen, domu.stream, 640) for domu in domus)

        poll(no_window, SHOWN_SECONDS, f"the windows of dead domains {[domu.domid for domu in domus]} to vanish")
        poll(
            lambda: self._memory_is_back(memory),
            30,
            f"memory back: before (Xen, Dom0) {memory} MiB, slack {XEN_SLACK_MIB}, {DOM0_SLACK_MIB}",
        )

    def _memory_is_back(self, before: tuple[int, int]) -> bool:
        xen, dom0 = self.dom0.memory()
        return xen >= before[0] - XEN_SLACK_MIB and dom0 >= before[1] - DOM0_SLACK_MIB


class XenDmabufWitnessedCase(XenDmabufCase):
    """``witness``, another DomU, lives through all cases of a class and must not notice."""

    witness: DomU
    worker: int
    services: list[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.witness = cls.class_domu("xen-dmabuf-witness", 9)
        cls.witness.start(size="320x240")
        cls.worker = cls.witness.worker()
        cls.services = cls.dom0.main_pids()

    def assert_witness_flips(self, before: int) -> None:
        """Its frames are shown, more than ``before``, what its flips() were."""
        self.witness.screens("flip 3", 60)
        self.assertGreaterEqual(self.witness.flips(), before + 3, "the other DomU's flips")

    def assert_unnoticed(self) -> None:
        """Neither its worker nor the services were replaced."""
        self.assertEqual(self.witness.worker(), self.worker, "the other DomU's worker")
        self.assertEqual(self.dom0.main_pids(), self.services, "main processes of backend and Weston")


class XenDmabufUnnoticedCase(XenDmabufCase):
    """``one`` is a DomU for all cases of a class; it is never restarted, and unless a case says otherwise it doesn't
    notice what happens to its worker."""

    one: DomU

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.one = cls.class_domu("xen-dmabuf-shared", 5)
        cls.one.start()
        # the kernel's words would come among a program's on the console
        cls.one.run("dmesg -n 1")

    def setUp(self) -> None:
        super().setUp()
        self.one.resume_pattern()
        self.one.wait_for_pattern()

    def noticed(self) -> tuple[int, int]:
        """What is another one after the DomU has noticed: its program, and what was said in XenStore since."""
        said = re.findall(rf"backend state.*domid={self.one.domid} ", self.dom0.journal(f"-u {SERVICE}"))
        return self.one.program(), len(said)

    def unnoticed(self, command: str, timeout: float = 60) -> None:
        """Run a command that ends processes of the backend: another worker, or the same where ``command`` spares it,
        goes on, and the DomU's program doesn't notice that flips were answered too late, or this raises Noticed."""
        before, flips = self.noticed(), self.one.flips("flips_requested")
        self.dom0.run(command, timeout)
        self.dom0.wait_for_services()
        poll(lambda: self.one.backend() and self.one.buffers(), 60, "the DomU's buffers in the backend")
        poll(lambda: (self.one.backend() or {})["compositor"], 60, "the worker's compositor")
        self.assert_flips(self.one)
        self.assertGreater(self.one.flips("flips_requested"), flips, "the counters go on")
        (program, said), plugged = self.noticed(), self.one.plugged()
        self.assertEqual(said, before[1], "what was said in XenStore")
        if (program, plugged) != (before[0], ["connected"]):
            raise Noticed(f"the DomU's program was {before[0]} and is {program}; its screen: {plugged}")

    def goes_on(self, command: str, mode: str = "run", timeout: float = 60) -> None:
        """The same for a command after which another worker must be there; not one grant more than before.

        The pattern is in ``mode``, and ``$worker`` is the process, whenever the command is run: a machine on which
        flips were answered later than IN_TIME says nothing of what a frontend that waits 3 s notices, so there it is
        done again, TRIES times at most.
        """
        late: list[str] = []
        while len(late) < TRIES:
            self.one.screens(mode)
            old, grants = self.one.worker(), self.dom0.grants(self.one.domid)
            try:
                self.unnoticed(f"worker={old}; {command}; while [ -e /proc/$worker ]; do sleep 0.05; done", timeout)
            except Noticed as error:
                took = self.one.interruption()
                said = f"flips were answered {took:.1f} s after the last worker's end: {error}"
                if took <= IN_TIME:
                    raise AssertionError(said) from error
                print(f"too late for a frontend, {said}", flush=True)
                late.append(f"{took:.1f}")
                self.plug_again()
            else:
                self.assert_replaced(old, grants)
                return
        self.fail(
            f"flips were answered {', '.join(late)} s after the last worker's end, and a frontend waits 3 s: is the "
            "worker's start too slow, or this machine?"
        )

    def assert_replaced(self, old: int, grants: int) -> None:
        """Another worker than process ``old`` is there, and ``grants`` are mapped."""
        self.assertNotEqual(self.one.worker(), old, "the worker was not replaced")
        poll(lambda: self.dom0.grants(self.one.domid) == grants, 30, "as many grants as before")

    def plug_again(self) -> None:
        """Mainline's driver keeps a screen unplugged that it took for it: begin with another device of it."""
        self.one.end_pattern()
        self.one.unbind()
        self.one.bind()
        self.one.resume_pattern()
        self.one.wait_for_pattern()
        poll(self.one.buffers, 60, "the DomU's buffers in the backend")

    def spared(self, command: str) -> None:
        """The same for a command that the worker survives."""
        worker = self.one.worker()
        self.unnoticed(command)
        self.assertEqual(self.one.worker(), worker, "the worker was replaced")
