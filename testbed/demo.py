# SPDX-License-Identifier: MIT
"""The main job, shown: ``make demo``. The image's own cases, with QEMU's scan-out for a screen."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from oeqa.runtime.cases.xen_dmabuf_release import XenDmabufReleaseTest
from oeqa.runtime.xen_dmabuf import picture

from . import evidence, machine
from .cache import say
from .errors import LostVMError
from .evidence import Claim, Evidence
from .guest import Dom0
from .person import PersonTest
from .product import Product, chosen
from .qemu import Qemu
from .report import Proof, Report, animate, save


def claims(product: Product) -> list[Claim]:
    """In the order in which they are looked into."""
    own = [
        ("(a) Dom0's screen equals the DomU's frames, pixel by pixel", "test_frames_are_exact_and_in_order"),
        ("(b) DomU and Dom0 share the memory of the picture", "test_memory_is_shared_both_ways"),
        ("(c) the backend touches no pixel", "test_no_pixel_is_copied_or_mapped"),
        *product.claims,
        (f"(d) without our ioctls {_refusal()}", "test_without_the_ioctls_and_with_them_again"),
        ("(e) Xen's grant table: pages mapped while shown, none after", "test_grants_equal_pages"),
    ]
    person = [
        ("another DomU's Weston is on Dom0's screen, pixel by pixel", "test_weston_of_the_domu"),
        ("what is typed in its window arrives in the DomU", "test_typed_text_arrives"),
        ("clicks and touches land where they are done, also in a scaled window", "test_clicks_and_touches_land"),
    ]
    released = "a DomU destroyed while it flips leaves nothing, and hurts nobody"
    return [
        *(Claim(sentence, product.cases, method) for sentence, method in own),
        Claim(released, XenDmabufReleaseTest, "test_destroyed_while_flipping"),
        *(Claim(sentence, PersonTest, method) for sentence, method in person),
    ]


def _refusal() -> str:
    """As the suite's Mesa has it."""
    if evidence.test_data()["XEN_DMABUF_EXPORT"] == "refused":
        return "the device refuses the DomU's pages"
    return "a CPU can read the DomU's pages, whatever a device would say"


class Teller:
    """Tells what is found out as it is, and writes it into a report's folder."""

    def __init__(self, report: Report, folder: Path, dom0: Dom0) -> None:
        self.report = report
        self.folder = folder
        self._dom0 = dom0

    def begin(self, claim: Claim) -> None:
        """A line, since it takes its time."""
        say(f"proving: {claim.sentence}")

    def end(self, found: Evidence) -> None:
        """The answer."""
        self.report.proofs.append(Proof(found.claim.sentence, found.held, found.seen, found.seconds))
        print(f"   {'yes' if found.held else 'NO '}  {found.seen}", flush=True)
        self._show(found.claim.method.removeprefix("test_"), found.pictures)
        if not found.held:
            say("a proof did not hold; the rest is not tried")
            # Weston's own words belong to its session
            units = " ".join(f"-u '{unit}'" for unit in ("xen-dmabuf*", "weston", "session-*"))
            journal = self._dom0.try_run(f"journalctl -b --no-pager -n 200 {units}").output
            (self.folder / "journal.txt").write_text(journal, encoding="utf-8")

    def _show(self, name: str, rows: Sequence[evidence.Row]) -> None:
        names = [[f"{name}-{row}-{column}.png" for column in range(len(shown))] for row, shown in enumerate(rows)]
        for shown, files in zip(rows, names, strict=True):
            for (_caption, seen), file in zip(shown, files, strict=True):
                save(seen, self.folder / file)
            self.report.pictures.append([(caption, file) for (caption, _), file in zip(shown, files, strict=True)])

    def film(self, caption: str, pictures: Sequence[picture.Picture]) -> None:
        """Pictures that follow each other."""
        file = re.sub(r"\W+", "-", caption.lower()) + ".webp"
        animate(pictures, self.folder / file)
        self.report.pictures.append([(caption, file)])


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
            report.machine = _machine(dom0)
            say(f"machine: {report.machine}; booted in {time.monotonic() - started:.0f} s")
            _play(report, folder, product, qemu, dom0)
    except LostVMError as error:
        report.proofs.append(Proof("the virtual machine lives", False, str(error), 0))
        raise
    finally:
        report.seconds = round(time.monotonic() - started, 1)
        report.write(folder)
    say(f"boot to end: {report.seconds:.0f} s; report: {folder / 'report.html'}")
    return report


def _machine(dom0: Dom0) -> str:
    asked = "xl info xen_version 2>/dev/null || xl info | sed -n 's/^xen_version *: //p'; uname -rm; weston --version"
    return " · ".join(dom0.run(asked).split("\n")).strip(" ·")


def _play(report: Report, folder: Path, product: Product, qemu: Qemu, dom0: Dom0) -> None:
    teller = Teller(report, folder, dom0)
    target = evidence.Watching(qemu, dom0)
    failed = evidence.collect(target, claims(product), teller, machine=qemu, product=product, film=teller.film)
    if failed and report.held:
        report.proofs.append(Proof("Dom0 is left as it was", False, failed, 0))
