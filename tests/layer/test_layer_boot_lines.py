# SPDX-License-Identifier: MIT
"""What boots is told the same in the image for QEMU, on the board and on the testbed, but for what is named here.

docs/testbed.md has the reasons.
"""

import inspect
import re

from layer_files import LAYER, assignment

from testbed import qemu

IMAGE = (LAYER / "recipes-core/images/xen-dmabuf-image-dom0-qemu.inc").read_text()
BOARD = next(LAYER.rglob("xen-dmabuf-boot_*.bb")).read_text()
PAGE = LAYER.parent / "docs/testbed.md"

ONLY_TESTBED = {
    "xen": {"console", "loglvl", "guest_loglvl", "dom0_vcpus_pin"},
    "dom0": {"panic", "oops", "loglevel", "systemd.show_status", "mitigations"},
}
# meta-virtualization's classes say these for the image.
CONSOLE = {"console": "dtuart"}
DOM0 = {"console": "hvc0", "root": "/dev/vda", "clk_ignore_unused": ""}
BOARDS_OWN = {"dom0_mem": "2048M", "dom0_max_vcpus": "4", "iommu": "on"}
NOT_ON_A_BOARD = {"bootscrub"}


def options(text):
    """Options of a command line and their values."""
    return {name: value for name, _, value in (word.partition("=") for word in text.split())}


def image():
    return options(assignment(IMAGE, "QB_XEN_CMDLINE_EXTRA"))


def test_testbeds_xen_is_told_what_the_images_is():
    testbed = options(qemu.XEN_OPTIONS)
    assert {name: testbed.get(name) for name in image()} == image()
    assert testbed.keys() - image().keys() == ONLY_TESTBED["xen"]
    assert CONSOLE.items() <= testbed.items()


def test_testbeds_dom0_is_told_what_the_images_is():
    testbed = options(qemu.DOM0_OPTIONS)
    assert DOM0.items() <= testbed.items()
    assert testbed.keys() - DOM0.keys() == ONLY_TESTBED["dom0"] | {"rw"}


def test_testbed_has_the_images_memory():
    default = inspect.signature(qemu.Qemu).parameters["memory_mib"].default
    assert default == int(assignment(IMAGE, "QB_MEM_VALUE"))


def test_boards_xen_is_told_what_qemus_is():
    board = options(assignment(BOARD, "XEN_DMABUF_XEN_ARGS"))
    assert board == {**{n: v for n, v in image().items() if n not in NOT_ON_A_BOARD}, **CONSOLE, **BOARDS_OWN}


def test_each_difference_is_on_the_page():
    listed = PAGE.read_text().split("## Differences", 1)[1]
    for name in (ONLY_TESTBED["xen"] | ONLY_TESTBED["dom0"]) - CONSOLE.keys():
        assert re.search(rf"`{re.escape(name)}(=\S+)?`", listed), name
