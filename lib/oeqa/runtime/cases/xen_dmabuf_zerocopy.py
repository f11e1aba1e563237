# SPDX-License-Identifier: MIT
"""The zero-copy path: pixels, memory, copies, grants; formats, sizes, several screens and domains."""

from oeqa.runtime.xen_dmabuf import picture
from oeqa.runtime.xen_dmabuf.case import XenDmabufCase
from oeqa.runtime.xen_dmabuf.dom0 import poll
from oeqa.runtime.xen_dmabuf.domu import SYSTEMD, XENBUS_CONNECTED, send_signal

POKED, POKED_BACK = 0x5A17C3, 0xC3175A
CLIENT = "weston-simple-s"  # as the kernel has weston-simple-shm's name
COLOURS_OF_A_CLIENT = 100  # more than background, panel and cursor have


class XenDmabufZeroCopyTest(XenDmabufCase):
    """One DomU for all: no case ends it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_domu("xen-dmabuf-shared", 7)
        cls.one.start()

    def test_frames_are_exact_and_in_order(self):
        self.assert_exact_and_in_order(self.one)

    def test_moving_frames_are_whole(self):
        """While the DomU flips without a pause, every picture is one frame, and none comes twice."""
        (screen,) = self.one.screens("run")
        size, numbers = (screen["width"], screen["height"]), []
        for _ in range(3):
            shot = self.dom0.screenshot()
            number = picture.frame_number(shot, self.one.stream, size[0])
            assert number is not None, f"no frame of stream {self.one.stream} on Dom0's screen"
            numbers.append(number)
            self.assertTrue(
                picture.find(shot, picture.frame(*size, self.one.stream, number)),
                f"frame {number} on Dom0's screen is torn",
            )
        self.one.screens("hold")
        self.assertEqual(numbers, sorted(set(numbers)), "frames on Dom0's screen, in the order of the pictures")

    def test_memory_is_shared_both_ways(self):
        """A pixel written in the DomU is seen through Dom0's dma-buf without any message, and back."""
        self.one.screens("hold")
        (screen,) = self.one.screens()
        x, y = screen["width"] // 2, screen["height"] // 2
        offset = y * screen["pitch"] + x * 4
        pid, before = self.one.worker(), self.one.flips("flips_requested")
        old = self.one.send(f"peek 0 {x} {y}")["rgb"]
        self.one.send(f"poke 0 {x} {y} {POKED:06x}")
        files = [str(b["fd"]) for b in self.one.buffers() if b["strategy"] == "map"]
        values = self.dom0.probe("peek", pid, ",".join(files), offset).split()
        holders = [file for file, value in zip(files, values) if int(value, 16) & 0xFFFFFF == POKED]
        self.assertEqual(len(holders), 1, f"{POKED:06x} poked, seen in files {files}: {values}")
        self.dom0.probe("poke", pid, holders[0], offset, f"{0xFF000000 | POKED_BACK:x}")
        self.assertEqual(int(self.one.send(f"peek 0 {x} {y}")["rgb"], 16), POKED_BACK)
        self.one.send(f"poke 0 {x} {y} {old}")
        flips = self.one.flips("flips_requested")
        self.assertEqual(flips, before, "a page flip came between: this proves nothing")
        self.saw(
            f"pixel {x},{y}: {POKED:06x} written in the DomU was read in Dom0 through file {holders[0]} of worker "
            f"{pid}, {POKED_BACK:06x} written there was read in the DomU; no flip in between"
        )

    def test_no_pixel_is_copied_or_mapped(self):
        self.assert_nothing_is_copied(self.one)

    def test_grants_equal_pages(self):
        self.assert_grants_equal_pages(self.one)

    def show_format(self, name):
        """What a DomU draws in a format is shown as drawn."""
        self.addCleanup(self.one.wait_for_pattern)
        self.addCleanup(self.one.resume_pattern)
        self.addCleanup(self.one.stop_pattern)
        self.one.run_pattern(f"--hold --format {name}")
        (screen,) = self.one.screens("flip 2", 120)
        self.assertEqual(screen["fourcc"], name)
        self.assert_shown(self.one, screen)

    def test_format_argb8888(self):
        self.show_format("AR24")

    def test_format_rgb565(self):
        self.show_format("RG16")

    def set_mode(self, mode):
        """The connector's resolution in XenStore is the only mode of drm_xen_front, read when it is bound."""
        self.one.end_pattern()
        self.dom0.run(f"xenstore-write /local/domain/{self.one.domid}/device/vdispl/0/0/resolution {mode}")
        self.one.unbind()
        self.one.bind()
        self.one.resume_pattern()
        self.assert_back(self.one)

    def test_mode_change(self):
        """Another mode, and the first one again; the DomU is not restarted."""
        (old,) = self.one.screens()
        self.addCleanup(self.set_mode, f"{old['width']}x{old['height']}")
        self.set_mode("401x300")
        (screen,) = self.one.screens()
        self.assertEqual((screen["width"], screen["height"]), (401, 300))
        self.assertEqual({(b["width"], b["height"]) for b in self.one.buffers()}, {(401, 300)})

    def test_odd_width(self):
        """Rows that are no multiple of 64 bytes, a height that is none of 16."""
        domu = self.domu()
        domu.start(size="349x211")
        self.assert_flips(domu)

    def test_two_connectors(self):
        domu = self.domu()
        domu.start(size="id0:400x300;id1:320x240")
        domu.screens("hold")
        screens = domu.screens("flip 3", 120)
        self.assertEqual([(s["width"], s["height"]) for s in screens], [(400, 300), (320, 240)])
        # windows may overlap: the later one is on top
        self.assert_shown(domu, screens[1])

    def test_two_domains_at_once(self):
        other = self.domu("xen-dmabuf-2", 2)
        other.start(size="320x240")
        before = self.one.flips()
        self.one.screens("run")
        try:
            self.assert_flips(other, 3)
            poll(lambda: self.one.flips() > before + 3, 60, "the first DomU's flips beside the second's")
        finally:
            self.one.screens("hold")
        other.destroy()
        self.wait_until_gone(other)
        self.assert_flips(self.one)

    def strategies(self):
        """How the DomU's buffers are shared by now."""
        return {buffer["strategy"] for buffer in self.one.buffers()}

    def back_to_the_ioctls(self):
        """Whatever a case left."""
        self.dom0.restore_backend()
        if self.strategies() != {"map"}:
            self.renew(self.one)

    def test_without_the_ioctls_and_with_them_again(self):
        """gntdev's own dma-buf is what a device refuses, and what a CPU's renderer (Mesa from 26 on) takes; the copying
        fallback shows what was refused. Then the shipped strategies are zero-copy again, in the same DomU.

        XEN_DMABUF_EXPORT of the test data says which of both it has to be: "refused" or "mapped".
        """
        self.addCleanup(self.back_to_the_ioctls)
        self.dom0.configure_backend('[gpu.default]\nstrategies = ["export", "copy"]\n')
        self.renew(self.one)
        without = self.how_it_is_shown()
        self.pictures["without"] = [
            (f"Without our ioctls. {text}", seen) for text, seen in self.pictures.pop(self.one.name)
        ]
        self.dom0.restore_backend()
        self.renew(self.one)
        self.assertEqual((self.strategies(), self.one.state()["pixel_bytes_copied"]), ({"map"}, 0))
        self.saw(f"{without}; with our ioctls the same DomU's picture is back without a copy")

    def how_it_is_shown(self):
        """Without the ioctls, in words."""
        buffers, copied = self.one.buffers(), self.one.state()["pixel_bytes_copied"]
        mapped = self.dom0.mapped_dmabufs("weston")
        wanted = self.tc.td.get("XEN_DMABUF_EXPORT")
        if wanted != "refused" and {buffer["strategy"] for buffer in buffers} == {"export"}:
            self.assertEqual(copied, 0)
            self.assertTrue(mapped or wanted != "mapped", "no dma-buf is mapped by Weston")
            return f"the compositor took gntdev's own dma-buf, and its renderer has mapped {mapped} of them"
        self.assertNotEqual(wanted, "mapped", f"gntdev's own dma-buf was refused: {buffers}")
        for buffer in buffers:
            self.assertEqual(buffer["strategy"], "copy", buffers)
            self.assertIn("export", buffer["why"])
        self.assertGreater(copied, 0)
        return f"{buffers[0]['why']}; the fallback copied {copied} bytes"


class XenDmabufDesktopTest(XenDmabufCase):
    """A DomU whose systemd starts its own Weston, on drm_xen_front."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_domu("xen-dmabuf-weston", 3)
        cls.prepare_desktop()
        cls.one.create(line=SYSTEMD, options=None, memory="384", vcpus="2")
        # the kernel's words would come among a program's on the console
        cls.one.wait_for_shell("dmesg -n 1")
        cls.one.run("systemctl start weston", 240)

    @classmethod
    def prepare_desktop(cls):
        """For those that want more of it: before it is created."""

    def test_weston_of_the_domu(self):
        """Its client moves on the screen; held still, all that it shows is there. Nothing is copied."""
        poll(lambda: picture.colours(self.dom0.screenshot()) > COLOURS_OF_A_CLIENT, 60, "a client on the screen")
        before, first = self.one.flips(), self.dom0.screenshot()
        poll(lambda: self.one.flips() > before + 2, 60, "flips of the DomU's Weston")
        poll(lambda: self.dom0.screenshot() != first, 60, "another picture of the moving client")
        self.addCleanup(self.one.run, send_signal(CLIENT, "CONT"))
        self.one.run(send_signal(CLIENT, "STOP"))
        held = ("Held still: the framebuffer, read in the DomU", self.one.grab)
        where = self.assert_found(self.one.name, held, "the framebuffer of the DomU's Weston on Dom0's screen", 60)
        self.assertEqual(self.one.state()["pixel_bytes_copied"], 0)
        self.assertEqual({b["strategy"] for b in self.one.buffers()}, {"map"})
        self.saw(f"it moves; held still, {where}; no byte was copied")


class XenDmabufImageGuestTest(XenDmabufCase):
    """The guest that an image starts at boot, by domu.cfg as it is."""

    def test_it_boots_to_the_screen(self):
        """Nobody logs in there or starts anything. Its disk, network and input are connected, too."""
        guest = self.domu(self.dom0.guest_name)
        guest.create_as_configured()
        self.addCleanup(self.dom0.prepare)  # shuts it down, since its disk is written to
        poll(lambda: picture.colours(self.dom0.screenshot()) > COLOURS_OF_A_CLIENT, 240, "its client on the screen")
        before, first = guest.flips(), self.dom0.screenshot()
        poll(lambda: guest.flips() > before + 2, 60, "flips of its Weston")
        poll(lambda: self.dom0.screenshot() != first, 60, "another picture of the moving client")
        self.assertEqual(guest.state()["pixel_bytes_copied"], 0)
        self.assertEqual({b["strategy"] for b in guest.buffers()}, {"map"})
        self.assertEqual(guest.frontends(), dict.fromkeys(("vbd", "vdispl", "vif", "vkbd"), {XENBUS_CONNECTED}))
