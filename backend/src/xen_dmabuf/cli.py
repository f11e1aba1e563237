# SPDX-License-Identifier: MIT
"""The command xen-dmabuf-backend.

Exit status: 0 success; 1 internal error (with a traceback), or a check that failed; 2 what the user
can repair: command line, configuration, missing device, service not running; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys

from . import __version__
from . import log as logs
from .errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .config import Config

log = logging.getLogger("xen_dmabuf")

DEFAULT_PATH = "/etc/xen-dmabuf/backend.toml"

_DESCRIPTION = """\
Shows DomUs' displays (Xen's para-virtual display, frontend drm_xen_front) in Dom0's Wayland
compositor, without copying pixels where the GPU allows it."""

_EPILOG = """\
examples:
  xen-dmabuf-backend check             can this Dom0 run the backend, and how?
  xen-dmabuf-backend run               what xen-dmabuf-backend.service starts
  xen-dmabuf-backend status --json     domains, buffers, strategies and counters

in the DomU's xl configuration:
  vdispl = [ "backend=Domain-0,be-alloc=0,connectors=id0:1920x1080" ]"""


def _configuration(options: argparse.Namespace) -> Config:
    # imported late: `status --socket` does without, and would take half as long again
    from .config import load

    return load(options.config or DEFAULT_PATH, must_exist=bool(options.config))


def _run(options: argparse.Namespace) -> int:
    import asyncio

    from .supervisor import Supervisor
    from .xenstore import XenStore

    def load() -> Config:
        config = _configuration(options)
        logs.setup(options.log_level or config.log_level)
        return config

    async def serve() -> None:
        await Supervisor(config, XenStore(), load).run()

    config = load()
    asyncio.run(serve())
    return 0


def _status(options: argparse.Namespace) -> int:
    from .query import ask
    from .report import status_lines

    answer = ask(options.socket or _configuration(options).control_socket, "status")
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(status_lines(answer)))
    return 0


def _check(options: argparse.Namespace) -> int:
    from .check import run_checks

    return run_checks(_configuration(options))


def _parser() -> argparse.ArgumentParser:
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

    run = commands.add_parser("run", parents=[common], help="serve all DomUs (systemd starts this)")
    run.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    run.set_defaults(function=_run)

    status = commands.add_parser("status", parents=[common], help="ask the running service")
    status.add_argument("--json", action="store_true", help="everything, for programs")
    status.add_argument("--socket", metavar="PATH", help="control socket of the service")
    status.set_defaults(function=_status)

    check = commands.add_parser(
        "check",
        parents=[common],
        help="device nodes, ioctls, libraries, compositor: what is there, what is missing",
    )
    check.set_defaults(function=_check)
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logs.setup(getattr(options, "log_level", None) or "info")
    try:
        return options.function(options)
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
