# SPDX-License-Identifier: MIT
"""A machine whose clock counts instructions, with the bench's programs in Dom0."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from .. import machine
from ..errors import ProofError
from ..guest import Dom0
from ..qemu import Images
from . import programs
from .in_dom0 import COMPOSITOR, Order, Seen, Span
from .rows import OUTPUTS, Row

FOLDER = "/run/flip-bench"
SCRIPT = Path(__file__).parent / "in_dom0.py"
XEN_OPTIONS = "sched_ratelimit_us=500000"
"""Dom0 and DomUs share the one CPU. A DomU that is woken while the backend runs waits until Dom0 sleeps: Linux would
take the time that it runs for that of the process that it interrupted."""
WARM_UP, IDLE_SECONDS, LOCAL_FRAMES = 20, 5, 40
ROW_SECONDS = 1800
_MIB = 1 << 20
_SETUP = """
mkdir -p {folder} /etc/xen-dmabuf/backend.toml.d
# the testbed keeps DomUs on a second CPU, which isn't there
echo 'vm.cpumask="0"' > /etc/xen/xl.conf
"""
_WESTON = """
cd /etc/xen-dmabuf/dom0/weston
test -e weston.ini.before || cp weston.ini weston.ini.before
sed 's/^renderer=.*/renderer={renderer}/' weston.ini.before > weston.ini
printf '[output]\\nname=Virtual-1\\nmode={width}x{height}\\n' >> weston.ini
systemctl restart weston
"""
_STRATEGY = """
printf '[gpu.default]\\nstrategies = ["{strategy}"]\\n' > /etc/xen-dmabuf/backend.toml.d/flip-bench.toml
systemctl reload xen-dmabuf-backend
"""
_SERVER = """
folder=/run/systemd/system/xen-dmabuf-worker@.service.d
mkdir -p $folder
printf '[Service]\\nEnvironment=XEN_DMABUF_FLIPS={server}\\n' > $folder/flip-bench.conf
systemctl daemon-reload
"""


class Bench:
    """A booted machine. Not thread-safe."""

    def __init__(self, dom0: Dom0) -> None:
        self._dom0 = dom0
        self._renderer = self._strategy = self._server = ""
        dom0.run(_SETUP.format(folder=FOLDER))
        built = programs.build()
        for file in (built / programs.DOMU, built / programs.LOCAL, programs.strace() / programs.STRACE, SCRIPT):
            dom0.copy_to(file, f"{FOLDER}/{file.name}")
        dom0.run(f"chmod 755 {FOLDER}/{programs.LOCAL} {FOLDER}/{programs.STRACE}")

    def measure(self, row: Row) -> Seen:
        """Measure a row. Raises ProofError with what Dom0 said."""
        if row.renderer != self._renderer:
            width, height = OUTPUTS[row.renderer]
            self._dom0.run(_WESTON.format(renderer=row.renderer, width=width, height=height), timeout=300)
            self._renderer = row.renderer
        if row.strategy != self._strategy:
            self._dom0.run(_STRATEGY.format(strategy=row.strategy), timeout=120)
            self._strategy = row.strategy
        if row.server != self._server:
            self._dom0.run(_SERVER.format(server=row.server))
            self._server = row.server
        order = json.dumps(asdict(_order(row)))
        done = self._dom0.try_run(f"python3 {FOLDER}/{SCRIPT.name} '{order}'", timeout=ROW_SECONDS)
        if done.status:
            raise ProofError(f"{row.name}: {done.output}")
        return _seen(done.output.splitlines()[-1])


def _order(row: Row) -> Order:
    width, height = row.size
    pictures = row.connectors * 2 * width * height * 4
    return Order(
        domus=row.domus,
        connectors=row.connectors,
        width=width,
        height=height,
        period=row.period,
        flips=row.flips,
        warm_up=WARM_UP,
        idle=IDLE_SECONDS,
        kernel=f"/var/lib/xen/images/domu-kernel{'-guest' if row.guest_series else ''}",
        ramdisk=f"{FOLDER}/{programs.DOMU}",
        memory=96 + pictures // _MIB * 2,
        cpus="",
        local=_local(row),
        strace=f"{FOLDER}/{programs.STRACE}" if row.domus == 1 else "",
    )


def _local(row: Row) -> str:
    """Command line of the local client, where it does what the DomU does: a window as large as the DomU's picture."""
    fits = all(mine <= theirs for mine, theirs in zip(row.size, OUTPUTS[row.renderer], strict=True))
    if row.domus > 1 or row.connectors > 1 or row.period or not fits:
        return ""
    kind = "dumb" if row.strategy == "map" else "shm"
    return f"{FOLDER}/{programs.LOCAL} {COMPOSITOR} {row.size[0]} {row.size[1]} {LOCAL_FRAMES} {kind}"


def _seen(line: str) -> Seen:
    values = json.loads(line)
    for name in ("flipping", "idle"):
        values[name] = Span(**values[name])
    return Seen(**values)


@contextlib.contextmanager
def booted(images: Images, folder: Path) -> Iterator[Bench]:
    """Boot one; it ends with the context."""
    images = replace(images, xen_options=f"{images.xen_options} {XEN_OPTIONS}")
    with machine.boot(images, folder, OUTPUTS["pixman"], icount=True) as (_, dom0):
        yield Bench(dom0)
