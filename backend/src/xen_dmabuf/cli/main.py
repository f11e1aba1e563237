# SPDX-License-Identifier: MIT
"""The command xen-dmabuf-backend.

Exit status: 0 success; 1 internal error (with a traceback), a check that failed, or `wait` in vain;
2 what the user can repair: command line, configuration, missing device, service not running; 130
interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Iterator

from .. import __version__
from .. import log as logs
from ..errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config import Config

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

log = logging.getLogger("xen_dmabuf")

DEFAULT_PATH = "/etc/xen-dmabuf/backend.toml"

_DESCRIPTION = """\
Shows DomUs' displays (Xen's para-virtual display, frontend drm_xen_front) in Dom0's Wayland
compositor, without copying pixels where the GPU allows it."""

_EPILOG = """\
examples:
  xen-dmabuf-backend check             can this Dom0 run the backend, and how?
  xen-dmabuf-backend run               what xen-dmabuf-backend.service starts
  xen-dmabuf-backend status            domains, buffers, strategies and counters
  xen-dmabuf-backend wait domu         until the DomU's screen is connected

in the DomU's xl configuration:
  vdispl = [ "backend=Domain-0,be-alloc=0,connectors=id0:1920x1080" ]

more: man xen-dmabuf-backend, man xen-dmabuf-backend.service, man backend.toml"""

_STATUS = """\
Asks the running service for its domains: worker, buffers, strategies, counters, and the age of the
last flip and the last frame of each connector."""

_STATUS_EPILOG = """\
examples:
  xen-dmabuf-backend status --json | jq '.domains[].devices[].link'
  xen-dmabuf-backend status --watch | jq --unbuffered 'select(.event == "worker-gone")'

for a node exporter's textfile collector, from a timer:
  f=/var/lib/node_exporter/xen-dmabuf
  xen-dmabuf-backend status --metrics > $f.new && mv $f.new $f.prom

docs/status-schema.md explains every field and what changes its number."""

_WAIT = """\
Returns 0 once the condition holds of the domain's display, 1 with a sentence on stderr if it does
not within the time, 2 if the service doesn't run.

conditions:
  connected   every vdispl device (or the one of --device) is connected: the DomU has its screen
  flipping    a connector had a page flip within the last second: the screen shows something new
  gone        the service knows no such device, or no such domain, any more"""

_WAIT_EPILOG = """\
examples:
  xl create /etc/xen/domu.cfg && xen-dmabuf-backend wait domu --timeout 60
  xl destroy domu && xen-dmabuf-backend wait domu --for gone --timeout 30"""

_CHECK = """\
Prints a line for each thing that the backend needs, "ok" or "MISSING" with the remedy. Run it as
root: devices, GPU and compositor are then tried with a worker's rights, XenStore with the service's."""


def _configuration(options: argparse.Namespace) -> Config:
    # imported late: `status --socket` does without, and would take half as long again
    from ..config import load

    return load(options.config or DEFAULT_PATH, must_exist=bool(options.config))


def _run(options: argparse.Namespace) -> int:
    sys.modules["ssl"] = None  # type: ignore[assignment]  # as in a worker: asyncio does without it
    import asyncio

    from ..supervisor.standstill import Standstill
    from ..supervisor.supervisor import Supervisor
    from ..supervisor.units import Units
    from ..supervisor.xenstore import XenStore

    def load() -> Config:
        config = _configuration(options)
        logs.setup(options.log_level or config.log_level)
        return config

    async def serve() -> None:
        with Standstill():
            await Supervisor(config, XenStore(), load, Units()).run()

    try:
        config = load()
    except UserError as error:
        raise UserError(
            f"not started: {error}; repair it and `systemctl restart xen-dmabuf-backend`, or wait: systemd tries again,"
            " each minute at last, and guests draw on meanwhile"
        ) from error
    asyncio.run(serve())
    return 0


def _control(options: argparse.Namespace) -> str:
    return options.socket or _configuration(options).control_socket


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """A reader that leaves, as in `status | head`, isn't an error; a file that can't be written is the user's."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still in stdout's buffer
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"standard output: {error.strerror}; make room where it is written to") from error
        if not isinstance(error, BrokenPipeError):
            raise


def _status(options: argparse.Namespace) -> int:
    path = _control(options)
    with _printing():
        if options.watch:
            from .watch import print_events

            print_events(path)
        else:
            _print_status(options, path)
    return 0


def _print_status(options: argparse.Namespace, path: str) -> None:
    from .query import ask

    answer = ask(path, "status")
    if options.json:
        print(json.dumps(answer, indent=2))
    elif options.metrics:
        from .metrics import metrics_text

        sys.stdout.buffer.write(metrics_text(answer).encode())
    else:
        from .report import status_lines

        print("\n".join(status_lines(answer)))


def _wait(options: argparse.Namespace) -> int:
    from .watch import wait_for

    return wait_for(_control(options), options.domain, options.device, options.condition, options.timeout)


def _check(options: argparse.Namespace) -> int:
    from .check import run_checks

    return run_checks(_configuration(options))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xen-dmabuf-backend",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        metavar="FILE",
        help=f"configuration file (default: {DEFAULT_PATH} if it is there, else built-in values)",
    )

    asking = argparse.ArgumentParser(add_help=False, parents=[common])
    asking.add_argument("--socket", metavar="PATH", help="control socket of the service (default: the configuration's)")

    run = commands.add_parser("run", parents=[common], help="serve all DomUs (systemd starts this)")
    run.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="instead of the configuration's log_level",
    )
    run.set_defaults(function=_run)
    _add_status(commands, asking)
    _add_wait(commands, asking)
    check = commands.add_parser(
        "check",
        parents=[common],
        description=_CHECK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="device nodes, ioctls, libraries, compositor: what is there, what is missing",
    )
    check.set_defaults(function=_check)
    return parser


def _add_status(commands: Commands, asking: argparse.ArgumentParser) -> None:
    status = commands.add_parser(
        "status",
        parents=[asking],
        description=_STATUS,
        epilog=_STATUS_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="ask the running service: domains, buffers, counters, events",
    )
    form = status.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, for programs")
    form.add_argument("--metrics", action="store_true", help="counters as OpenMetrics text")
    form.add_argument(
        "--watch",
        action="store_true",
        help="one JSON object a line: everything, then an event each time something changes",
    )
    status.set_defaults(function=_status)


def _add_wait(commands: Commands, asking: argparse.ArgumentParser) -> None:
    wait = commands.add_parser(
        "wait",
        parents=[asking],
        description=_WAIT,
        epilog=_WAIT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="return when a DomU's display is connected, shows new frames or is gone",
    )
    wait.add_argument("domain", metavar="DOMAIN", help="name or number of the domain")
    wait.add_argument("--device", metavar="N", type=_natural, help="number of the vdispl device (default: all)")
    wait.add_argument(
        "--for",
        dest="condition",
        choices=("connected", "flipping", "gone"),
        default="connected",
        help="condition (default: connected)",
    )
    wait.add_argument("--timeout", metavar="S", type=_seconds, help="seconds to wait at most (default: no limit)")
    wait.set_defaults(function=_wait)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a device; 0 is the first")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:  # nor is NaN
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give seconds, as in 30 or 0.5")
    return seconds


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    logs.setup(getattr(options, "log_level", None) or "info")
    try:
        status: int = options.function(options)
        return status
    except UserError as error:
        log.error("%s", error)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        log.exception("internal error")
        return 1


if __name__ == "__main__":
    sys.exit(main())
