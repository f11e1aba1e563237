# SPDX-License-Identifier: MIT
"""The process that workers are forked from: `python3 -m xen_dmabuf.forkserver --control-fd FD`.

Started by the supervisor as the workers' unprivileged user. It has loaded what a worker needs,
opens nothing, and reads nothing but requests of the supervisor: a DomU's screen need not wait until
Python has started, and workers share the memory of what they import.

FD is a Unix socket of kind SOCK_SEQPACKET. A request is one octet with one file descriptor: the
worker's end of its own socket. The answer is the worker's process number in decimal, 0 if it
couldn't be forked (the log says why). The worker is the supervisor's child: its own parent ends
at once, and the supervisor is the subreaper (prctl(2), PR_SET_CHILD_SUBREAPER).

Exit status: 0 the supervisor is gone, 2 the environment lacks something (the message says what).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import socket
import sys

from . import _sys
from . import log as logs
from .errors import UserError
from .log import fields

log = logging.getLogger("xen_dmabuf.forkserver")  # run as __main__


def _fork(control: socket.socket, socket_fd: int, serve) -> int:
    """The process number of a new worker. OSError if there can't be another process."""
    reader, writer = os.pipe()
    try:
        parent = os.fork()
        if parent == 0:
            _parent(control, reader, writer, socket_fd, serve)
        os.close(writer)
        writer = -1
        # before the answer: from then on the worker is the supervisor's child
        os.waitpid(parent, 0)
        answer = os.read(reader, 16)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if not answer:
        raise OSError("the second fork failed")
    return int(answer)


def _parent(control: socket.socket, reader: int, writer: int, socket_fd: int, serve) -> None:
    """Runs in the process between: forks the worker, says its number, and ends. Never returns."""
    status = 1
    try:
        pid = os.fork()
        if pid:
            os.write(writer, str(pid).encode())
            status = 0
        else:
            control.close()
            os.close(reader)
            os.close(writer)
            status = serve(socket.socket(fileno=socket_fd))
            sys.stderr.flush()
    finally:
        # a worker's thread that waits for a hung compositor must not keep the process alive
        os._exit(status)


def _serve(control: socket.socket, serve) -> None:
    while True:
        request, files, _flags, _address = socket.recv_fds(control, 1, 1)
        if not request:
            return
        (socket_fd,) = files
        try:
            pid = _fork(control, socket_fd, serve)
        except OSError as error:
            log.error("no process for a worker", extra=fields(reason=error))
            pid = 0
        finally:
            os.close(socket_fd)
        control.send(str(pid).encode())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="xen_dmabuf.forkserver", description="Forks workers; started by the supervisor only."
    )
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--preload-mesa", action="store_true", help="workers will use libgbm")
    options = parser.parse_args(arguments)
    logs.setup("info")
    _sys.forbid_inspection()
    try:
        from .worker import serve  # here: what it lacks is a sentence in the log
    except UserError as error:
        log.error("no worker can run", extra=fields(reason=error))
        return 2
    if options.preload_mesa:
        _sys.preload_mesa()
    # what is imported is never freed: not even its reference marks are to be copied by a collection
    gc.freeze()
    with contextlib.suppress(ConnectionError):  # the supervisor is gone
        _serve(socket.socket(fileno=options.control_fd), serve)
    return 0


if __name__ == "__main__":
    sys.exit(main())
