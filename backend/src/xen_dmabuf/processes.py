# SPDX-License-Identifier: MIT
"""The supervisor's processes: the fork server, and the workers that it forks.

Not the standard library's multiprocessing: its fork server would run as root, each worker would
have to give that up by itself, and a third process would count semaphores that nobody has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys

from . import _sys
from .config import Config, Worker
from .errors import UserError
from .log import fields

log = logging.getLogger(__name__)

# a fork takes milliseconds; the first one waits until Python has started, on a busy machine
_FORK_SECONDS = 60.0


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


def _preload(config: Config) -> list[str]:
    wanted = any("gbm" in gpu.allocators for gpu in config.gpu.values())
    return ["--preload-mesa"] if wanted else []


class Process:
    """A forked worker: this process's child, which asyncio doesn't know. Asyncio thread only."""

    def __init__(self, pid: int) -> None:
        """OSError if there is no file descriptor left: then the process ends with its socket."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        _pid, status = os.waitpid(self.pid, 0)
        self._ended.set_result(os.waitstatus_to_exitcode(status))

    async def wait(self) -> int:
        """The exit status, negative: the signal that ended it."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """SIGKILL unless it has ended."""
        if not self._ended.done():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


class ForkServer:
    """This process's side of forkserver.py. ``config`` may be replaced. Asyncio thread only."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._account: Worker | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._closed = False
        self._lock = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Its process number, 0 before it was started."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start it ahead unless it runs. What fails is logged; fork() says it again."""
        async with self._lock:
            try:
                await self._ensure()
            except (OSError, UserError) as error:
                log.warning("no fork server", extra=fields(reason=error))

    async def fork(self) -> tuple[Process, socket.socket]:
        """A worker that waits to be told its domain, and our end of its socket.

        OSError if there can't be one, UserError if the account is missing.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                async with self._lock:
                    await self._ensure()
                    pid = await self._ask(theirs)
            return Process(pid), ours
        except BaseException:
            ours.close()
            raise

    async def _ensure(self) -> None:
        alive = self._process and self._process.returncode is None
        if self._closed or (alive and self._control and self._account == self.config.worker):
            return
        self._drop()
        _sys.adopt_orphans()
        account = self.config.worker
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            environment = {
                key: value
                for key, value in os.environ.items()
                if key in ("PATH", "LANG", "PYTHONPATH", "XEN_DMABUF_PROTOCOLS", "WAYLAND_DEBUG")
            }
            # what the backend writes has no use after it, and the account has no home
            environment |= {"PYTHONDONTWRITEBYTECODE": "1", "XDG_RUNTIME_DIR": "/run"}
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "xen_dmabuf.forkserver",
                    f"--control-fd={theirs.fileno()}",
                    *_preload(self.config),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    **_account(self.config),
                )
            except BaseException:
                ours.close()
                raise
        self._control, self._account = ours, account

    async def _ask(self, theirs: socket.socket) -> int:
        """The number of a new process that has ``theirs``."""
        if self._control is None or self._process is None:
            raise OSError("the service ends")
        try:
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
            answer = await asyncio.wait_for(
                asyncio.get_running_loop().sock_recv(self._control, 16), _FORK_SECONDS
            )
        except TimeoutError as error:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._drop()
            raise OSError(f"fork server does not answer for {_FORK_SECONDS:.0f} s") from error
        except OSError:
            answer = b""
        except asyncio.CancelledError:
            self._drop()  # the next one would take this one's answer for its own
            raise
        if not answer:
            self._drop()
            raise OSError("fork server has ended; its own lines in the log say why")
        if answer == b"0":
            raise OSError("fork server could not fork")
        return int(answer)

    async def close(self) -> None:
        """End it; no new one is started."""
        self._closed = True
        async with self._lock:
            self._drop()

    def _drop(self) -> None:
        """It ends by itself when its socket closes, its workers don't."""
        if self._control:
            self._control.close()
            self._control = None
