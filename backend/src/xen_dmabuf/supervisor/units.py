# SPDX-License-Identifier: MIT
"""The units of the workers: systemd starts, confines, counts, restarts and kills them.

xen-dmabuf-worker@DOMID.socket is a socket that systemd holds and whose other end only that unit's
process has; connecting to it starts xen-dmabuf-worker@DOMID.service. systemctl is what asks systemd:
it works without a message bus. Asyncio thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

SOCKETS = "/run/xen-dmabuf/worker"
SERVICE = "xen-dmabuf-backend.service"
IDLE = "idle"
"""The instance that has no domain: it shows the screens whose guest isn't there."""
Which = int | str
"""A domain's number, or IDLE."""
_NAME = "xen-dmabuf-worker@{}"
_UNIT = re.compile(r"xen-dmabuf-worker@([0-9]{1,5}|idle)\.(?:socket|service)", re.ASCII)
_SECONDS = 60.0
_GROUPS = Path("/sys/fs/cgroup/system.slice/system-xen\\x2ddmabuf\\x2dworker.slice")


class Units:
    """OSError of any call has what systemctl said."""

    def __init__(self, program: str = "systemctl", sockets: str = SOCKETS) -> None:
        self._program = program
        self._sockets = sockets
        self._locks: dict[Which, asyncio.Lock] = {}

    def socket(self, domid: Which) -> str:
        """The path to connect to, once start() was."""
        return f"{self._sockets}/{domid}.sock"

    def pid(self, domid: Which) -> int:
        """The worker's process by the kernel's control group of the unit, 0 if there is none."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            group = _GROUPS / f"{_NAME.format(domid)}.service" / "cgroup.procs"
            return int(group.read_text().split()[0])
        return 0

    async def start(self, domid: Which) -> None:
        """Let there be the socket; the first connection starts the worker. Fine if it is there."""
        async with self._lock(domid):
            await self._call("start", _NAME.format(domid) + ".socket")

    async def kill(self, domid: Which) -> None:
        """Kill all processes of the unit; systemd starts the worker again, with what it stored."""
        async with self._lock(domid):
            unit = _NAME.format(domid) + ".service"
            await self._call("kill", "--signal=KILL", unit)

    async def stop(self, domid: Which) -> None:
        """End the worker and drop all that systemd keeps of it: Xen gets everything back.

        One that hangs is killed after the unit's TimeoutStopSec=.
        """
        async with self._lock(domid):
            name = _NAME.format(domid)
            await self._call("stop", name + ".socket", name + ".service")
            with contextlib.suppress(OSError):
                await self._call("reset-failed", name + ".socket", name + ".service")
        self._locks.pop(domid, None)

    async def forgive(self, domid: Which | None = None) -> None:
        """Let systemd begin anew with the pauses before a restart (RestartSteps=), which only ever grow: what was
        restarted has come to serve. Without a domain: the supervisor's, and all workers'."""
        if domid is None:
            await self._call("reset-failed", SERVICE, _NAME.format("*") + ".service")
        else:
            await self._call("reset-failed", _NAME.format(domid) + ".service")

    async def running(self) -> set[Which]:
        """The domains for which there is a unit, and IDLE if it is there."""
        command = ("list-units", "--plain", "--no-legend", "--all", _NAME.format("*"))
        text = await self._call(*command)
        return {match[1] if match[1] == IDLE else int(match[1]) for match in _UNIT.finditer(text)}

    def _lock(self, domid: Which) -> asyncio.Lock:
        return self._locks.setdefault(domid, asyncio.Lock())

    async def _call(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            self._program,
            "--quiet",
            "--no-ask-password",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        words = " ".join(arguments)
        try:
            async with asyncio.timeout(_SECONDS):
                output, errors = await process.communicate()
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                raise OSError(f"{self._program} {words}: no answer in {_SECONDS:.0f} s") from None
            raise
        if process.returncode:
            reason = errors.decode(errors="replace").strip() or f"status {process.returncode}"
            raise OSError(f"{self._program} {words}: {reason}")
        return output.decode(errors="replace")
