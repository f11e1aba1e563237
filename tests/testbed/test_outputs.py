# SPDX-License-Identifier: MIT
"""Dom0 as a kiosk: each of a guest's screens fills the output that has its app_id, up to the largest usual size."""

import pytest

from oeqa.runtime.xen_dmabuf.case import GUEST_KERNEL
from testbed import machine, pattern
from testbed.deadline import wait_until
from testbed.display import DomU, screenshot
from testbed.errors import ProofError
from testbed.layout import REPOSITORY

pytestmark = pytest.mark.testbed
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
    """(Qemu, Dom0) with two outputs and the layer's kiosk configuration."""
    with machine.boot(machine.build(), FOLDER, SCREEN, outputs=2) as (qemu, dom0):
        machine.kiosk(dom0, weston_ini())
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


def test_each_screen_fills_its_output(kiosk):
    qemu, dom0 = kiosk
    domu = DomU(qemu, dom0)
    domu.start_pattern("--hold", vdispl=VDISPL)
    screens = domu.screens("hold")
    assert len(screens) == 2
    screens = domu.screens("flip 3", timeout=120)
    require_filled(qemu, {1 - number: screen for number, screen in enumerate(screens)}, SCREEN)
    # what a guest shows goes, its window doesn't: black, not what is behind it
    domu.stop_pattern()
    wait_until(
        lambda: not any(screenshot(qemu, FOLDER / f"black-{output}.png", output).any() for output in (0, 1)),
        60,
        "black outputs",
    )
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
