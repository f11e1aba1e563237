# SPDX-License-Identifier: MIT
"""A Dom0 with two outputs: the image's own case, and what QEMU scans out, up to the largest usual size."""

from types import SimpleNamespace

import pytest
from oeqa.runtime.case import OERuntimeTestCase

from oeqa.runtime.cases.xen_dmabuf_outputs import *  # noqa: F403
from oeqa.runtime.xen_dmabuf import dom0 as image_test
from oeqa.runtime.xen_dmabuf.case import GUEST_KERNEL
from testbed import machine, pattern
from testbed.deadline import wait_until
from testbed.display import DomU, screenshot
from testbed.errors import ProofError
from testbed.guest import Target
from testbed.layout import REPOSITORY
from testbed.qemu import TEST_SCREEN

pytestmark = [pytest.mark.testbed, pytest.mark.usefixtures("kiosk")]
FOLDER = REPOSITORY / "build" / "test-outputs"
SCREEN = (640, 480)
LARGE = (3840, 2160)
VDISPL = '["backend=Domain-0,be-alloc=0,connectors=id0:640x480;id1:640x480"]'
# the other way round than a compositor would place them
OUTPUTS = {"Virtual-1": "id1", "Virtual-2": "id0"}


def weston_ini(first: tuple[int, int] = SCREEN) -> str:
    """Sections of the outputs, for printf; ``first``: the first output's size. A screen that nobody looks at has no
    EDID: Weston would take the largest mode that the driver has."""
    return "".join(
        f"\\n[output]\\nname={output}\\nmode={width}x{height}\\napp-ids=xen-dmabuf.domu.{name}\\n"
        for (output, name), (width, height) in zip(OUTPUTS.items(), (first, SCREEN), strict=True)
    )


@pytest.fixture(scope="module")
def kiosk():
    """(Qemu, Dom0) with two outputs, of which one is connected, and the layer's kiosk configuration."""
    with (
        machine.boot(machine.build(), FOLDER, TEST_SCREEN, outputs=2) as (qemu, dom0),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(OERuntimeTestCase, "tc", SimpleNamespace(target=Target(dom0), td={}))
        machine.kiosk(dom0)
        yield qemu, dom0


def require_filled(qemu, screens, size) -> None:
    """Every pixel of each output is that of the screen that ``screens`` has for it."""
    last = []

    def exact() -> bool:
        try:
            for output, screen in screens.items():
                picture = screenshot(qemu, FOLDER / f"output-{output}-{size[0]}x{size[1]}.png", output)
                if picture.shape[1::-1] != size:
                    raise ProofError(f"output {output} has {picture.shape[1]}x{picture.shape[0]} pixels")
                seen = pattern.require_exact(picture, *size, screen["stream"], screen["frame"])
                if (seen.x, seen.y) != (0, 0):
                    raise ProofError(f"stream {screen['stream']} is at {seen.x},{seen.y} of output {output}")
        except ProofError as error:
            last[:] = [str(error)]
            return False
        return True

    try:
        wait_until(exact, 60, "each screen on its output")
    except TimeoutError:
        pytest.fail(f"{last[0]} (for 60 s)")


def test_what_is_scanned_out(kiosk):
    """The outputs themselves, as QEMU shows them: weston-screenshooter can't see that."""
    qemu, dom0 = kiosk
    image_test.Dom0(Target(dom0)).switch_on_screens()
    machine.kiosk(dom0, weston_ini())
    domu = DomU(qemu, dom0)
    domu.start_pattern("--hold", vdispl=VDISPL)
    screens = domu.screens("flip 3", timeout=120)
    assert len(screens) == 2
    require_filled(qemu, {1 - number: screen for number, screen in enumerate(screens)}, SCREEN)
    dom0.run("xl destroy domu")
    domu.forget()


def test_the_largest_usual_screen_is_exact(kiosk):
    """With the guest's series: mainline's frontend takes no framebuffer that is so high."""
    qemu, dom0 = kiosk
    machine.kiosk(dom0, weston_ini(LARGE))
    domu = DomU(qemu, dom0)
    width, height = LARGE
    vdispl = f'["backend=Domain-0,be-alloc=0,connectors=id1:{width}x{height}"]'
    domu.start_pattern("--hold", vdispl=vdispl, kernel=f'"{GUEST_KERNEL}"', memory="320")
    (screen,) = domu.screens("flip 3", timeout=240)
    assert (screen["width"], screen["height"], screen["error"]) == (width, height, 0)
    require_filled(qemu, {0: screen}, LARGE)
    dom0.run("xl destroy domu")
    domu.forget()
