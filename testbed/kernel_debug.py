# SPDX-License-Identifier: MIT
"""The debug variants of the testbed's kernels: checks that cost too much for every day, and KUnit.

For ``make kernel-debug-test`` only: Dom0's kernel, whose DomUs boot the plain one, and a DomU's with the guest's
series, whose Dom0 boots the plain one.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from . import cache, kernel, kernel_guest, layout, process

FRAGMENT = layout.TESTBED_KERNEL / "debug.cfg"
GUEST_FRAGMENT = layout.TESTBED_KERNEL / "debug-guest.cfg"
PATCHES = {
    "6.12": ("gntdev-copy-without-lock.patch",),
    "7.2": ("gntdev-copy-without-lock.patch", "udmabuf-long-segments.patch"),
}
"""For mistakes of each line's own: one would end lockdep before the tests do, another would be reported."""
_WESTON_DROPIN = base64.b64encode(b"[Service]\nTimeoutStartSec=900\n").decode()
SLOWNESS = 6
"""How much longer everything may take than with the plain kernel."""
DOM0_OPTIONS = (
    "page_owner=on page_poison=1 log_buf_len=8M "
    # since 6.16 the kernel's own tests run at boot only when they are asked to
    "kunit.autorun=1 "
    # the machine's clock runs on while the host lets it wait: a stall says nothing here
    "rcupdate.rcu_cpu_stall_suppress=1 "
    # services take minutes to start, more than Weston's unit allows
    "systemd.default_timeout_start_sec=900 "
    f"systemd.set_credential_binary=systemd.unit-dropin.weston.service:{_WESTON_DROPIN}"
)
XEN_OPTIONS = "gnttab_max_maptrack_frames=16"
"""Few enough that a test can use up Xen's table of mapped grants: 256 of them a frame."""


def kunit_symbols() -> list[str]:
    """Configuration symbols of the KUnit tests that the series and the extra patches add."""
    text = "".join(patch.read_text(encoding="utf-8") for patch in kernel.patches(extra=True))
    return sorted(set(re.findall(r"^\+config (\w*KUNIT\w*)$", text, re.M)))


def _more_patches() -> tuple[Path, ...]:
    """What the plain kernel doesn't have: nothing but their own tests uses the extra patches."""
    own = (layout.TESTBED_KERNEL / name for name in PATCHES[kernel.line()])
    return (*kernel.extra_patches(), *own)


def _fragments() -> tuple[Path, ...]:
    """What turns the checks on, and those that only this line has."""
    own = layout.TESTBED_KERNEL / f"debug-{kernel.line()}.cfg"
    return (FRAGMENT, own) if own.exists() else (FRAGMENT,)


def _all_fragments(folder: Path) -> tuple[Path, ...]:
    tests = folder / "kunit.cfg"
    tests.write_text("".join(f"CONFIG_{name}=y\n" for name in kunit_symbols()), encoding="utf-8")
    return (*_fragments(), tests)


def _compile(folder: Path) -> None:
    kernel.compile_into(folder, _all_fragments(folder), _more_patches())


def _compile_guest(folder: Path) -> None:
    own = (kernel_guest.FRAGMENT, GUEST_FRAGMENT)
    kernel_guest.compile_into(folder, _all_fragments(folder), _more_patches(), own)


def _inputs() -> dict[str, str]:
    return {
        **kernel.inputs(),
        "debug": cache.digest([*_fragments(), *_more_patches()]),
        "kunit": " ".join(kunit_symbols()),
    }


def build() -> Path:
    """Folder like that of :func:`testbed.kernel.build`."""
    return cache.stage("kernel-debug", _inputs(), _compile)


def build_guest() -> Path:
    """Folder like that of :func:`testbed.kernel_guest.build`."""
    build()  # compiles most of it, for the compiler's cache
    inputs = {**_inputs(), **kernel_guest.inputs(), "debug guest": cache.digest([GUEST_FRAGMENT])}
    return cache.stage("kernel-debug-guest", inputs, _compile_guest)


def dom0_parts(debug: Path, plain: Path) -> Path:
    """What of the two kernels goes into Dom0's root: the debug one's modules and selftests, and the
    plain one for DomUs."""

    def build(folder: Path) -> None:
        for part in (debug / "modules", debug / "selftests", plain / "Image"):
            process.run(["cp", "-a", str(part), str(folder)], what=f"kernel {part.name}")

    return cache.stage("kernel-dom0-debug", {"debug": debug.name, "plain": plain.name}, build)


REPORTS = re.compile(
    r"\bBUG:|\bBUG at|WARNING:|Oops|unable to handle|Internal error|refcount_t:|UBSAN:|ODEBUG:|DEBUG_LOCKS_WARN_ON"
    r"|INFO: (possible|task|trying|rcu)|suspicious RCU usage|inconsistent lock state|(add|del) corruption|Bad page"
)
OWN_REPORTS = re.compile(
    r"has no memory any more|still uses a released dma-buf|unmapping \d+ grants of a dma-buf failed"
)
"""What the series itself says when something happens that never should. Its KUnit tests have it happen at boot."""
MARK = "debug kernel: booted, the tests begin"


def complaints(log: str) -> list[str]:
    """First lines of reports in a kernel log, the series' own ones only after MARK.

    An allocation that fault injection has refused is none.
    """
    boot, _, tests = log.rpartition(MARK)
    return [line for line in boot.splitlines() if REPORTS.search(line)] + [
        line for line in tests.splitlines() if REPORTS.search(line) or OWN_REPORTS.search(line)
    ]
