# SPDX-License-Identifier: MIT
"""The supervisor's side of a worker process: start, talk, end.

What a worker sends is as little trusted as what its DomU sends: a line that is too long or no JSON
object ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable

from .config import Config, Worker, to_plain
from .errors import UserError
from .log import fields

log = logging.getLogger(__name__)

LINE_LIMIT = 1 << 20
_STOP_SECONDS = 10.0


def _account(config: Config) -> dict:
    """Popen's user, group and extra_groups; none of them if this process isn't root (tests)."""
    if os.geteuid() != 0:
        return {}
    import grp
    import pwd

    worker = config.worker
    try:
        user = pwd.getpwnam(worker.user).pw_uid
        group = grp.getgrnam(worker.group).gr_gid
    except KeyError as error:
        raise UserError(
            f"account of the workers: {error}; run systemd-sysusers with xen-dmabuf.conf, or set"
            " [worker] user and group"
        ) from error
    extra = []
    for name in worker.groups:
        try:
            extra.append(grp.getgrnam(name).gr_gid)
        except KeyError:
            log.warning("group of the workers does not exist", extra=fields(group=name))
    return {"user": user, "group": group, "extra_groups": extra}


async def _spawn(config: Config) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """A worker process that waits to be told its domain, and our end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        environment = {
            key: value
            for key, value in os.environ.items()
            if key in ("PATH", "LANG", "PYTHONPATH", "XEN_DMABUF_PROTOCOLS", "WAYLAND_DEBUG")
        }
        # what the backend writes has no use after it, and the account has no home
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "XDG_RUNTIME_DIR": "/run"}
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "xen_dmabuf.worker",
                f"--control-fd={theirs.fileno()}",
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                **_account(config),
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


class Spare:
    """One worker process started ahead: a DomU that boots need not wait for Python, too.

    The process has no domain and opens nothing until a Child takes it. ``config`` may be replaced.
    Asyncio thread only.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._account: Worker | None = None
        self._ready: tuple[asyncio.subprocess.Process, socket.socket] | None = None
        self._closed = False
        self._lock = asyncio.Lock()

    async def fill(self) -> None:
        """Start one unless one waits. What fails is logged: take() fails again, for its Child."""
        async with self._lock:
            if self._closed or (self._ready and self._ready[0].returncode is None):
                return
            self._drop()
            try:
                self._account = self.config.worker
                self._ready = await _spawn(self.config)
            except (OSError, UserError) as error:
                log.warning("no spare worker", extra=fields(reason=error))

    async def take(self) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """The spare if it lives, else a new process. OSError, UserError as Child.start()."""
        async with self._lock:
            taken, self._ready = self._ready, None
        if taken and taken[0].returncode is None and self._account == self.config.worker:
            return taken
        if taken:
            taken[1].close()
        return await _spawn(self.config)

    async def close(self) -> None:
        """End the spare; no new one is started."""
        self._closed = True
        async with self._lock:
            self._drop()

    def _drop(self) -> None:
        """A worker whose socket closes ends by itself."""
        if self._ready:
            self._ready[1].close()
            self._ready = None


class Child:
    """One worker. ``on_message(message)`` and ``on_exit(status)`` run in the asyncio thread."""

    def __init__(self, domid: int, on_message: Callable, on_exit: Callable) -> None:
        self.domid = domid
        self._on_message = on_message
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def start(self, name: str, config: Config, spare: Spare) -> None:
        """OSError if the process can't be started, UserError if its account is missing."""
        self._process, ours = await spare.take()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_LIMIT)
        self._task = asyncio.get_running_loop().create_task(self._run(reader))
        self.send(op="start", domid=self.domid, name=name, config=to_plain(config))

    def send(self, **message: object) -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def _run(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError("not a JSON object")
                self._on_message(message)
        except ValueError as error:  # too long for the limit, or no JSON
            log.error("worker talks nonsense", extra=fields(domid=self.domid, reason=error))
            self.kill()
        except ConnectionError:
            pass
        assert self._process is not None
        status = await self._process.wait()
        if self._writer:
            self._writer.close()
        self._on_exit(status)

    def kill(self) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self) -> None:
        """Ask it to give everything back and end; kill it if that takes too long."""
        if self._process is None:
            return
        self.send(op="stop")
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            log.error("worker does not end: killed", extra=fields(domid=self.domid))
            self.kill()
            await self._process.wait()
