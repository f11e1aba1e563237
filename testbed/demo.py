# SPDX-License-Identifier: MIT
"""The main job, shown: ``make demo``."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from . import debian, debianroot, machine, pointing, proofs
from .cache import say
from .display import DomU
from .errors import LostVMError, ProofError
from .product import Product, chosen
from .proofs import Scene
from .report import Proof, Report


def _prove(report: Report, claim: str, proof: Callable[[], str]) -> bool:
    say(f"proving: {claim}")
    started = time.monotonic()
    try:
        seen, held = proof(), True
    except (ProofError, TimeoutError, AssertionError) as error:
        seen, held = str(error), False
    report.proofs.append(Proof(claim, held, seen, round(time.monotonic() - started, 1)))
    print(f"   {'yes' if held else 'NO '}  {seen}", flush=True)
    return held


def _started(start: Callable[[], object], what: str) -> Callable[[], str]:
    def proof() -> str:
        start()
        return what

    return proof


def _play(report: Report, scene: Scene, product: Product) -> None:
    """All proofs in their order."""
    domu = scene.domu

    def start() -> None:
        with pointing.enlarged_if_there_is_room(scene):
            domu.boot()
        domu.run_pattern("--hold")

    def again() -> str:
        domu.start_pattern("--hold")
        return proofs.pattern_is_exact(scene, rounds=1, title="again")

    steps: list[tuple[str, Callable[[], str]]] = [
        ("a DomU starts with its virtual display", _started(start, "the test pattern runs in the DomU")),
        *product.steps(scene),
        ("(a) Dom0's screen equals the DomU's frames, pixel by pixel", lambda: proofs.pattern_is_exact(scene)),
        ("(b) DomU and Dom0 share the memory of the picture", lambda: proofs.memory_is_shared(scene)),
        ("(c) the backend touches no pixel", lambda: proofs.nothing_is_copied(scene)),
        ("(e) Xen's grant table: pages mapped while shown, none after", lambda: proofs.grants_equal_pages(scene)),
        (
            "the DomU starts a Weston of its own",
            _started(domu.start_weston, "Weston runs in the DomU, on drm_xen_front"),
        ),
        ("that Weston is on Dom0's screen, pixel by pixel", lambda: proofs.weston_is_exact(scene)),
        ("what is typed in its window arrives in the DomU", lambda: proofs.typed_text_arrives(scene)),
        (
            "clicks and touches land where they are done, also in a scaled window",
            lambda: pointing.clicks_and_touches_land(scene),
        ),
        ("the DomU destroyed while it flips hurts nobody", lambda: proofs.crash_is_survived(scene)),
        ("the DomU, started again, has its picture again", again),
        _without_our_ioctls(scene),
        ("and with them the picture comes back", lambda: proofs.picture_comes_back(scene)),
    ]
    for claim, proof in steps:
        if not _prove(report, claim, proof):
            say("a proof did not hold; the rest is not tried")
            journal = scene.dom0.try_run("journalctl -b --no-pager -u xen-dmabuf-backend -u weston -n 200").output
            (scene.folder / "journal.txt").write_text(journal, encoding="utf-8")
            return


def _without_our_ioctls(scene: Scene) -> tuple[str, Callable[[], str]]:
    """(d), as the suite's Mesa has it."""
    if debianroot.suite() == debian.SUITE:
        claim, proof = "the device refuses the DomU's pages", proofs.foreign_buffer_is_refused
    else:
        claim, proof = "a CPU can read the DomU's pages, whatever a device would say", proofs.foreign_buffer_is_mapped
    return f"(d) without our ioctls {claim}", functools.partial(proof, scene)


def run(folder: Path, product: Product | None = None, own_kernel: Callable[[], Path] | None = None) -> Report:
    """Build what is missing, boot, prove, write the report. Raises TestbedError if it can't be run.

    ``product``: the one that the environment chooses, if none is given; ``own_kernel``: machine.build()'s.
    """
    product = product or chosen()
    images = machine.build(product, own_kernel=own_kernel)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    report = Report(product=list(product.origin))
    started = time.monotonic()
    try:
        with machine.boot(images, folder) as (qemu, dom0):
            report.machine = " · ".join(
                dom0.run(
                    "xl info xen_version 2>/dev/null || xl info | sed -n 's/^xen_version *: //p'; uname -rm; "
                    "weston --version"
                ).split("\n")
            ).strip(" ·")
            say(f"machine: {report.machine}; booted in {time.monotonic() - started:.0f} s")
            scene = Scene(qemu, dom0, DomU(qemu, dom0), folder, report.pictures)
            _play(report, scene, product)
    except LostVMError as error:
        report.proofs.append(Proof("the virtual machine lives", False, str(error), 0))
        raise
    finally:
        report.seconds = round(time.monotonic() - started, 1)
        report.write(folder)
    say(f"boot to end: {report.seconds:.0f} s; report: {folder / 'report.html'}")
    return report
