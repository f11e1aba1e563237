# SPDX-License-Identifier: MIT
"""What boots is told the same in the image for QEMU, on the board and on the testbed, but for what is named here.

docs/testbed.md has the reasons.
"""

import inspect
import re

import pytest
from layer_files import LAYER, assignment

from testbed import qemu
from testbed.errors import TestbedError

IMAGE = (LAYER / "recipes-core/images/xen-dmabuf-image-dom0-qemu.inc").read_text()
BOARD = next(LAYER.rglob("xen-dmabuf-boot_*.bb")).read_text()
PAGE = LAYER.parent / "docs/testbed.md"

ONLY_TESTBED = {
    "xen": {"loglvl", "guest_loglvl", "dom0_vcpus_pin"},
    "dom0": {"rw", "panic", "oops", "loglevel", "systemd.show_status", "mitigations"},
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


@pytest.mark.parametrize(("boot", "more"), [("testbed", ONLY_TESTBED), ("image", {"xen": set(), "dom0": set()})])
def test_the_testbed_is_told_what_the_image_is(monkeypatch, boot, more):
    monkeypatch.setenv("XEN_DMABUF_BOOT", boot)
    monkeypatch.delenv("XEN_DMABUF_RENDERER", raising=False)
    xen, dom0 = map(options, qemu.command_lines())
    assert (image() | CONSOLE).items() <= xen.items()
    assert xen.keys() - image().keys() == CONSOLE.keys() | more["xen"]
    assert DOM0.items() <= dom0.items()
    assert dom0.keys() - DOM0.keys() == more["dom0"]


def test_the_images_renderer_may_be_chosen(monkeypatch):
    monkeypatch.setenv("XEN_DMABUF_RENDERER", "softpipe")
    assert qemu.command_lines()[1].endswith(" systemd.setenv=GALLIUM_DRIVER=softpipe")


@pytest.mark.parametrize("variable", ["XEN_DMABUF_BOOT", "XEN_DMABUF_RENDERER"])
def test_another_choice_is_refused(monkeypatch, variable):
    monkeypatch.setenv(variable, "vulkan")
    with pytest.raises(TestbedError, match=f'{variable}="vulkan" is not known'):
        qemu.command_lines()


def test_testbed_has_the_images_memory():
    default = inspect.signature(qemu.Qemu).parameters["memory_mib"].default
    assert default == int(assignment(IMAGE, "QB_MEM_VALUE"))


def test_boards_xen_is_told_what_qemus_is():
    board = options(assignment(BOARD, "XEN_DMABUF_XEN_ARGS"))
    assert board == {**{n: v for n, v in image().items() if n not in NOT_ON_A_BOARD}, **CONSOLE, **BOARDS_OWN}


def test_each_difference_is_on_the_page():
    listed = PAGE.read_text().split("## Differences", 1)[1]
    for name in ONLY_TESTBED["xen"] | ONLY_TESTBED["dom0"]:
        assert re.search(rf"`{re.escape(name)}(=\S+)?`", listed), name
