# SPDX-License-Identifier: MIT
"""The kernel series' own test programs, run in a Dom0: what they print, and how they are started."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.deadline import wait_until
from testbed.guest import Dom0, Guest, Result

FOLDER = "/usr/lib/xen-dmabuf/selftests"
SERVICE = "xen-dmabuf-worker@.service"
UNIT = "xen-dmabuf-access"
SANDBOX = re.compile(
    r"^(NoNewPrivileges|Protect\w+|Private\w+|Restrict\w+|LockPersonality|SystemCall\w+|Device\w+|Limit\w+|\w*ExecPaths"
    r"|Capability\w+|DynamicUser|SupplementaryGroups)="
)
"""Lines of a worker's unit that say what its processes are and what is taken from them."""
EXPORTERS = ("/dev/udmabuf", "/dev/dma_heap/system")
"""What the unit's sandbox doesn't have, but stands for the GPU drivers that there are elsewhere."""


@dataclass(frozen=True)
class Tap:
    """Counts of a TAP program none of whose cases failed, and all that it printed."""

    passed: int
    skipped: int
    output: str

    def skips(self) -> list[str]:
        """The lines of the cases that were skipped."""
        return [line for line in self.output.splitlines() if line.startswith("ok") and "SKIP" in line]


def tap(result: Result) -> Tap:
    """What a TAP program has counted; AssertionError with the words of the cases that failed."""
    totals = re.search(r"Totals: pass:(\d+) fail:(\d+) .*skip:(\d+) error:(\d+)", result.output)
    assert totals, result.output[-3000:]
    passed, failed, skipped, errors = map(int, totals.groups())
    # what a case says comes between its RUN and its FAIL
    assert (failed, errors) == (0, 0), "\n".join(
        case for case in re.split(r"(?m)^(?=#  RUN )", result.output) if re.search(r"(?m)^not ok", case)
    )[-4000:]
    return Tap(passed, skipped, result.output)


def run(dom0: Dom0, name: str, environment: str = "", timeout: float = 400) -> Tap:
    """Run a selftest of the series as root."""
    return tap(dom0.try_run(f"modprobe vgem; {environment} {FOLDER}/{name}", timeout))


def unit(dom0: Dom0, environment: dict[str, str]) -> str:
    """A unit that runs the access test as an account like a worker's, in a worker's sandbox."""
    sandbox = [line for line in dom0.run(f"systemctl cat {SERVICE}").splitlines() if SANDBOX.match(line)]
    assert len(sandbox) > 15, f"the sandbox of {SERVICE} isn't recognised: {sandbox}"
    return "\n".join(
        [
            "[Service]",
            "Type=oneshot",
            f"ExecStart={FOLDER}/gntdev_dmabuf_access",
            f"StandardOutput=file:/run/{UNIT}.tap",
            "TimeoutStartSec=infinity",
            *[f"Environment={name}={value}" for name, value in environment.items()],
            *sandbox,
            *[f"DeviceAllow={path} rw" for path in EXPORTERS],
            "",
        ]
    )


@contextlib.contextmanager
def grants(guest: Guest, count: int, program: str = f"{FOLDER}/gntdev_dmabuf_foreign") -> Iterator[str]:
    """References of pages that a guest's root grants to Dom0, for those who can't: "8,9,10"."""
    guest.run(f"({program} grant 0 {count} > /run/refs 2>&1 & echo $! > /run/refs.pid) < /dev/null")
    try:
        yield wait_until(
            lambda: re.search(r"^GNTDEV_MAP_REFS=(\S+)$", guest.run("cat /run/refs"), re.M),
            60,
            f"the grants of {guest.name}",
        )[1]
    finally:
        guest.try_run("kill $(cat /run/refs.pid)")


def install_in_domu(domu: Guest, dom0: Dom0, name: str, folder: Path) -> str:
    """Copy a selftest from Dom0 into a DomU, by a folder of the host; its path there."""
    binary = folder / name
    binary.write_bytes(dom0.read_file(f"{FOLDER}/{name}"))
    domu.copy_to(binary, f"/run/{name}")
    domu.run(f"chmod 755 /run/{name}")
    return f"/run/{name}"


def access_in_the_sandbox(dom0: Dom0, seconds: int) -> Tap:
    """Access buffers while their memory is exchanged, each way for so many seconds, with a worker's rights."""
    with grants(dom0, 100) as refs:
        text = unit(dom0, {"GNTDEV_MAP_REFS": refs, "GNTDEV_MAP_SECONDS": str(seconds)})
        dom0.run(
            f"modprobe vgem; chmod 666 {' '.join(EXPORTERS)}; cat > /run/systemd/system/{UNIT}.service <<'EOF'\n"
            f"{text}EOF\nsystemctl daemon-reload"
        )
        try:
            ended = dom0.try_run(
                f"systemctl start {UNIT}; systemctl show -p Result {UNIT}; cat /run/{UNIT}.tap",
                timeout=120 + 20 * seconds,
            )
        finally:
            dom0.try_run(f"chmod 600 {' '.join(EXPORTERS)}")
    return tap(ended)


def own_memory_comes_back(dom0: Dom0) -> str:
    """How the kernel gives a frame its memory back here, by what it has said: "replaces" or "doesn't replace"."""
    found = re.findall(r"Xen (replaces|doesn't replace) a grant by a frame's own memory", dom0.run("dmesg"))
    assert len(found) == 1, found
    return found[0]
