# SPDX-License-Identifier: MIT
"""What other KMS programs do (clients/pattern/habits.c), one habit a case.

After each: what it drew is on Dom0's screen, its window where it was, every connector is connected, the next
program is shown, and nothing is left. What the DomU's driver refuses is expected to be refused: not a feature.
"""

from __future__ import annotations

import json

from oeqa.runtime.xen_dmabuf import picture
from oeqa.runtime.xen_dmabuf.case import SHOWN_SECONDS, XenDmabufCase
from oeqa.runtime.xen_dmabuf.dom0 import poll
from oeqa.runtime.xen_dmabuf.domu import PROGRAM, send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oeqa.runtime.xen_dmabuf.dom0 import Json
    from oeqa.runtime.xen_dmabuf.domu import DomU

SIZE = (200, 150)  # two windows at random places rarely overlap
PLACES = 12  # tries until they don't
PLACE_SECONDS = 5
NEXT = 2  # stream of the program that comes after a habit
FLIP_SECONDS = 2.5  # drm_xen_front gives up on an event after 3.1 s
READ = "read -r line <&3"
LINE = f'{READ}; echo "$line"'


def part(rows: picture.Picture, x: int, y: int) -> picture.Picture:
    """A screen's size of a picture, from a position on."""
    return [row[3 * x : 3 * (x + SIZE[0])] for row in rows[y : y + SIZE[1]]]


def expected(screen: Json) -> picture.Picture:
    """What a step says that a screen has to show."""
    shown = screen["shown"]
    if shown is None:
        return [bytes(3 * SIZE[0])] * SIZE[1]
    frame = picture.frame(shown["width"], shown["height"], shown["stream"], shown["frame"])
    return picture.as_kept(part(frame, shown["x"], shown["y"]), shown["fourcc"])


def seen(rows: picture.Picture, screen: Json) -> picture.Picture:
    """What Dom0's screen has in a window, as expected() has it."""
    return picture.as_shown(rows, screen["shown"]["fourcc"]) if screen["shown"] else rows


class XenDmabufHabitsTest(XenDmabufCase):
    """One DomU with two connectors of the same size for all."""

    one: DomU
    places: list[tuple[int, int]]
    rest: int

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.one = cls.class_domu("xen-dmabuf-habits", 1)
        connectors = ";".join(f"id{i}:{SIZE[0]}x{SIZE[1]}" for i in range(2))
        cls.one.create(size=connectors, options=None)
        # the kernel's words would come among the program's on the console
        cls.one.wait_for_shell("dmesg -n 1 && mkfifo /run/habit && exec 3<> /run/habit")
        cls.wait_for_card()
        cls.places = []
        for _ in range(PLACES):
            if cls.look_for_windows():
                break
            cls.one.unbind()
            cls.one.bind()
            cls.wait_for_card()
        else:
            raise AssertionError(f"the windows of two connectors overlap at {PLACES} different places")
        poll(lambda: not cls.one.buffers(), 30, "the release of all display buffers")
        cls.rest = cls.dom0.grants(cls.one.domid)

    @classmethod
    def wait_for_card(cls) -> None:
        """Wait until the driver has made the DRM device."""
        poll(lambda: cls.one.try_run("test -e /dev/dri/card0")[0] == 0, 60, "/dev/dri/card0 in the DomU")

    @classmethod
    def look_for_windows(cls) -> bool:
        """Where they are; False if one isn't wholly visible."""
        screens = cls.begin("both", NEXT)["screens"]

        def places() -> list[tuple[int, int]] | None:
            shot = cls.dom0.screenshot()
            found = [place for screen in screens if (place := picture.find(shot, expected(screen)))]
            return found if len(found) == len(screens) else None

        try:
            cls.places = poll(places, PLACE_SECONDS, "both windows, wholly visible")
        except AssertionError:
            return False
        finally:
            cls.end()
        return True

    # -- the program in the DomU

    @classmethod
    def begin(cls, name: str, stream: int) -> Json:
        """Start a habit; its first step."""
        command = f"xen-dmabuf-pattern habit --stream {stream} {name}"
        return cls.step(f"{{ {command} < /dev/null 2> /run/habit.error; echo ended $?; }} >&3 3>&- & {LINE}", name)

    @classmethod
    def step(cls, command: str, name: str) -> Json:
        """The next line of the program."""
        line = cls.one.run(command, 60).strip()
        answer: Json = json.loads(line) if line.startswith("{") else {"error": line}
        if "error" in answer:
            what = cls.one.try_run("cat /run/habit.error; dmesg | tail -n 20")[1]
            raise AssertionError(f"{name}: {answer['error']}\n{what}\n{cls.dom0.backend_log(30)}")
        return answer

    @classmethod
    def end(cls, signal: str = "TERM") -> None:
        """End the program, and wait for it."""
        line = cls.one.run(f"{send_signal(PROGRAM, signal)}; {LINE}", 60)
        if "ended" not in line:
            raise AssertionError(f"the program's end: {line}")

    @classmethod
    def clear(cls) -> None:
        """End what a case that failed has left: its program, and lines that nobody has read."""
        cls.one.run(
            f"{send_signal(PROGRAM, 'KILL')}; wait; echo cleared >&3; "
            f'line=; until [ "$line" = cleared ]; do {READ}; done'
        )

    # -- what must hold

    def assert_screens(self, step: Json) -> None:
        """Dom0's screen has in each window what a step says; every connector is connected."""
        self.assertEqual([s["connected"] for s in step["screens"]], [True, True], step)
        screens = step["screens"]
        wanted = [expected(screen) for screen in screens]

        def shown() -> bool:
            shot = self.dom0.screenshot()
            return [seen(part(shot, *place), screen) for place, screen in zip(self.places, screens)] == wanted

        poll(shown, SHOWN_SECONDS, f"both windows at {self.places}, pixel by pixel, as {step}")

    def has_series(self) -> bool:
        """Whether the DomU's kernel has the guest's series: only that chooses a version of the protocol."""
        node = f"/local/domain/{self.one.domid}/device/vdispl/0/version"
        return self.dom0.try_run(f"xenstore-read {node}")[0] == 0

    def counted(self) -> int:
        """Requests that the backend refused to the DomU."""
        return self.one.flips("requests_refused")

    def habit(self, name: str, *refused: str, signal: str = "TERM", by_backend: int = 0) -> Json:
        """One habit with all its steps, and the next program. ``refused``: what the driver refuses.

        Returns the last step.
        """
        self.addCleanup(self.clear)
        before = self.counted()
        step = self.begin(name, 1)
        self.assert_screens(step)
        while step["more"]:
            step = self.step(f"{send_signal(PROGRAM, 'USR1')}; {LINE}", name)
            self.assert_screens(step)
        self.end(signal)
        self.assertEqual(tuple(line.split(": ")[0] for line in step["refused"]), refused, step)
        self.assertLess(step["slowest_ms"], 1000 * FLIP_SECONDS, "a page flip was not answered in time")
        self.assert_next()
        self.assertEqual(self.counted() - before, by_backend, "requests refused by the backend")
        return step

    def assert_next(self) -> None:
        """The next program is shown; after it nothing is left."""
        self.assert_screens(self.begin("plain", NEXT))
        self.end()
        poll(lambda: not self.one.buffers(), 30, "the release of all display buffers")
        self.assertEqual(self.dom0.grants(self.one.domid), self.rest, "pages of the DomU that Dom0 has mapped")

    # -- the habits

    def test_draws_without_flips(self) -> None:
        """One buffer is shown for good and drawn into, as X.Org's modesetting driver does."""
        self.habit("draws")

    def test_dpms_off_and_on(self) -> None:
        self.habit("dpms")

    def test_ends_while_off(self) -> None:
        self.habit("ends-off")

    def test_killed_while_shown(self) -> None:
        self.habit("plain", signal="KILL")

    def test_killed_while_off(self) -> None:
        self.habit("ends-off", signal="KILL")

    def test_atomic_active_off_and_on(self) -> None:
        """The plane keeps its framebuffer meanwhile."""
        self.habit("active")

    def test_off_while_a_flip_is_open(self) -> None:
        self.habit("off-amid-flip")

    def test_one_of_two_connectors_off(self) -> None:
        self.habit("one-off")

    def test_two_connectors(self) -> None:
        self.habit("both")

    def test_larger_framebuffer_then_exact_one(self) -> None:
        self.habit("larger")

    def test_part_of_a_larger_framebuffer(self) -> None:
        self.habit("panned")

    def test_smaller_framebuffer(self) -> None:
        self.habit("smaller", "SetCrtc", "page flip")

    def test_framebuffer_removed_while_shown(self) -> None:
        self.habit("framebuffer-removed", "page flip of an idle CRTC")

    def test_handle_closed_while_shown(self) -> None:
        self.habit("handle-closed")

    def test_takes_all_back_before_it_ends(self) -> None:
        self.habit("tidy")

    def test_64_buffers(self) -> None:
        self.habit("many-buffers")

    def test_two_connectors_show_one_framebuffer(self) -> None:
        """Flipped in turn: what the other connector still shows is not replaced."""
        self.habit("mirrored")

    def test_lease(self) -> None:
        self.habit("lease")

    def test_dma_buf_between_two_programs(self) -> None:
        self.habit("prime-own")

    def test_dma_buf_of_a_heap(self) -> None:
        """Where the DomU's kernel has the system's dma-heap: a DomU of this layer need not."""
        if self.one.try_run("test -e /dev/dma_heap/system")[0]:
            self.skipTest("the DomU's kernel has no /dev/dma_heap/system")
        self.habit("prime-heap")

    def test_rgb565(self) -> None:
        self.habit("rgb565")

    def test_rgb888(self) -> None:
        self.habit("rgb888")

    def test_argb8888(self) -> None:
        self.habit("argb8888")

    def test_formats_that_the_driver_has_not(self) -> None:
        self.habit("formats-unknown", "XR30", "XB24", "RX24", "NV12", "C8  ")

    def test_smaller_mode_and_back(self) -> None:
        self.habit("smaller-mode", "SetCrtc of a smaller mode")

    def test_sets_the_mode_again_and_again(self) -> None:
        self.habit("again-and-again")

    def test_flips_without_event(self) -> None:
        self.habit("without-event")

    def test_atomic_flip_after_a_test(self) -> None:
        self.habit("atomic", "TEST_ONLY of a scaled plane")

    def test_set_plane(self) -> None:
        self.habit("set-plane", "SetPlane that scales", "SetPlane of a part")

    def test_two_masters_in_turn(self) -> None:
        self.habit("masters", "SetMaster while another is")

    def test_dirty_rectangles(self) -> None:
        """Mainline's driver has no DirtyFB, the guest's series has; what was drawn is shown all the same."""
        self.habit("dirty", *([] if self.has_series() else ["DirtyFB"]))

    def test_cursor(self) -> None:
        self.habit("cursor", "SetCursor", "MoveCursor")

    def test_gamma(self) -> None:
        self.habit("gamma", "SetGamma", "GetGamma")

    def test_vblank(self) -> None:
        self.habit("vblank", "WaitVBlank", "CrtcGetSequence")
