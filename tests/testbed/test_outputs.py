# SPDX-License-Identifier: MIT
"""Dom0 as a kiosk with two outputs: each of a guest's screens fills the output that has its app_id."""

import pytest

from testbed import machine, pattern
from testbed.deadline import wait_until
from testbed.display import DomU, screenshot
from testbed.errors import ProofError
from testbed.layout import REPOSITORY

pytestmark = pytest.mark.testbed
FOLDER = REPOSITORY / "build" / "test-outputs"
SCREEN = (640, 480)
VDISPL = '["backend=Domain-0,be-alloc=0,connectors=id0:640x480;id1:640x480"]'
# the other way round than a compositor would place them
OUTPUTS = {"Virtual-1": "id1", "Virtual-2": "id0"}


def weston_ini() -> str:
    """Sections of the outputs, for printf. A screen that nobody looks at has no EDID: Weston would take the
    largest mode that the driver has."""
    return "".join(
        f"\\n[output]\\nname={output}\\nmode={SCREEN[0]}x{SCREEN[1]}\\napp-ids=xen-dmabuf.domu.{name}\\n"
        for output, name in OUTPUTS.items()
    )


@pytest.fixture(scope="module")
def kiosk():
    """(Qemu, Dom0) with two outputs and the layer's kiosk configuration."""
    with machine.boot(machine.build(), FOLDER, SCREEN, outputs=2) as (qemu, dom0):
        machine.kiosk(dom0, weston_ini())
        yield qemu, dom0


def test_each_screen_fills_its_output(kiosk):
    qemu, dom0 = kiosk
    domu = DomU(qemu, dom0)
    domu.start_pattern("--hold", vdispl=VDISPL)
    screens = domu.screens("hold")
    assert len(screens) == 2
    screens = domu.screens("flip 3", timeout=120)
    last = []

    def exact() -> bool:
        try:
            for number, screen in enumerate(screens):
                output = 1 - number
                picture = screenshot(qemu, FOLDER / f"output-{output}.png", output)
                seen = pattern.require_exact(picture, *SCREEN, screen["stream"], screen["frame"])
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
    # what a guest shows goes, its window doesn't: black, not what is behind it
    domu.stop_pattern()
    wait_until(
        lambda: not any(screenshot(qemu, FOLDER / f"black-{output}.png", output).any() for output in (0, 1)),
        60,
        "black outputs",
    )
    dom0.run("xl destroy domu")
    domu.forget()
