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

from .config import Config, to_plain
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

    async def start(self, name: str, config: Config) -> None:
        """OSError if the process can't be started, UserError if its account is missing."""
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {
                key: value
                for key, value in os.environ.items()
                if key in ("PATH", "LANG", "PYTHONPATH", "XEN_DMABUF_PROTOCOLS", "WAYLAND_DEBUG")
            }
            # what the backend writes has no use after it, and the account has no home
            environment |= {"PYTHONDONTWRITEBYTECODE": "1", "XDG_RUNTIME_DIR": "/run"}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "xen_dmabuf.worker",
                f"--domid={self.domid}",
                f"--control-fd={theirs.fileno()}",
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                **_account(config),
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_LIMIT)
        self._task = asyncio.get_running_loop().create_task(self._run(reader))
        self.send(op="start", name=name, config=to_plain(config))

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
