# SPDX-License-Identifier: MIT
"""gntdev's own exporter of dma-bufs: what a device, the CPU and a compositor get of a granter's pages."""

import contextlib

import pytest
import selftests

from testbed import kernel, kernel_programs, pattern, proofs, software_weston
from testbed.deadline import wait_until
from testbed.display import PAGE, mapped_grants
from testbed.errors import ProofError

pytestmark = pytest.mark.testbed
CONFIGURATION = "/etc/xen-dmabuf/backend.toml"


def test_devices_and_programs_see_the_granters_pages(scene):
    """Self-grants whose frames don't follow each other, imported by a device behind swiotlb-xen."""
    built = kernel.build()
    kernel_programs.load_module(scene.dom0, built, "dmabuf_importer")
    program = kernel_programs.install(scene.dom0, built, "gntdev_export")
    result = scene.dom0.try_run(program, timeout=200)
    print("\n" + "\n".join(line for line in result.output.splitlines() if "segments" in line), flush=True)
    assert selftests.tap(result).passed == 23


@contextlib.contextmanager
def configured(dom0, text):
    """Another configuration of the backend for DomUs that start meanwhile."""
    dom0.run(
        f"cp {CONFIGURATION} /run/backend.toml.kept && printf '%b' '{text}' > {CONFIGURATION} && "
        "systemctl reload xen-dmabuf-backend"
    )
    try:
        yield
    finally:
        dom0.run(f"mv /run/backend.toml.kept {CONFIGURATION} && systemctl reload xen-dmabuf-backend")


def shown_exactly(weston, screen):
    """Wait until the compositor shows that frame, every pixel of it."""
    last = []

    def settled():
        try:
            return pattern.require_exact(
                weston.screenshot(), screen["width"], screen["height"], screen["stream"], screen["frame"]
            )
        except ProofError as error:
            last[:] = [error]
            return None

    try:
        wait_until(settled, 20, "the DomU's frame")
    except TimeoutError as error:
        raise ProofError(f"{last[0]} (for 20 s)") from error


def test_export_reaches_a_compositor(scene):
    """Strategy "export": a compositor that draws by CPU maps gntdev's dma-buf and shows the DomU's pages.

    This compositor keeps its mappings when the wl_buffers are gone (whether that is Weston's doing or Mesa's is not
    known): the grants end with it.
    """
    domu = scene.domu
    text = f'[display]\\nsocket = "{software_weston.SOCKET}"\\n[gpu.default]\\nstrategies = ["export"]\\n'
    with configured(scene.dom0, text):
        with software_weston.running(scene.dom0) as weston:
            domu.start_pattern()
            domu.screens("hold")
            for _ in range(3):
                screen = domu.screens("flip 3", timeout=120)[0]
                assert not screen["error"]
                shown_exactly(weston, screen)
            buffers = domu.buffers()
            assert {buffer["strategy"] for buffer in buffers} == {"export"}
            assert weston.mapped_dmabufs() == len(buffers) == 2
            print(f"\n{proofs.nothing_is_copied(scene, flips=10)}", flush=True)
            shown = mapped_grants(scene.dom0, domu.domid)
            domu.stop_pattern()
        pages = len(buffers) * screen["pitch"] * screen["height"] // PAGE
        wait_until(
            lambda: mapped_grants(scene.dom0, domu.domid) <= shown - pages,
            60,
            "the grants of both buffers to end with the compositor",
        )
        scene.dom0.run(f"xl destroy {domu.domid}")
        proofs.wait_until_gone(scene, domu.domid)
        assert mapped_grants(scene.dom0, domu.domid) == 0
