# SPDX-License-Identifier: MIT
"""Command line of the testbed.

Exit status: 0 everything held, 1 a proof did not hold, 2 the testbed could not do its work
(the message says what to mend), 3 the virtual machine was lost, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import cache, demo, host, kernel_bench, machine, oetest, view
from .errors import LostVMError, ProofError, TestbedError
from .flipbench import bench as flip_bench
from .inputbench import bench as input_bench
from .layout import REPOSITORY

BUILD = REPOSITORY / "build"


def _demo(_: argparse.Namespace) -> int:
    return 0 if demo.run(BUILD / "demo").held else 1


def _build(_: argparse.Namespace) -> int:
    for name, path in vars(machine.build()).items():
        if path:
            print(f"{name:8} {path}")
    return 0


def _kernel_bench(_: argparse.Namespace) -> int:
    kernel_bench.run(BUILD / "kernel-bench")
    return 0


def _flip_bench(arguments: argparse.Namespace) -> int:
    flip_bench.run(BUILD / "flip-bench", arguments)
    return 0


def _input_bench(_: argparse.Namespace) -> int:
    input_bench.run(BUILD / "input-bench")
    return 0


def _shell(_: argparse.Namespace) -> int:
    """Boot and wait; other terminals use the printed ssh command."""
    with machine.boot(machine.build(), BUILD / "shell") as (_qemu, dom0):
        print(
            f"Dom0:  {' '.join(dom0.ssh_command())}\nserial console: {BUILD / 'shell/serial.log'}\n"
            "Press Enter to end the machine."
        )
        sys.stdin.readline()  # also ends with the input
    return 0


def _view(_: argparse.Namespace) -> int:
    view.run(BUILD / "view")
    return 0


def _oe_test(arguments: argparse.Namespace) -> int:
    return 1 if oetest.run(arguments.oe_core, BUILD / "oe-test", arguments.tests) else 0


def _layer_build(arguments: argparse.Namespace) -> int:
    from .layerbuild import kernel, run  # kas and YAML, which nothing else here needs

    wanted = run.Wanted(arguments.trees, arguments.release, arguments.sources, kernel.Until(arguments.kernel))
    return run.run(wanted, BUILD / "layer-build")


def _layer_demo(arguments: argparse.Namespace) -> int:
    from . import layerdemo
    from .layerbuild import kernel

    until = kernel.Until(arguments.kernel)
    return layerdemo.play(arguments.trees, arguments.release, arguments.sources, until, BUILD / "layer-demo")


def _host_packages(_: argparse.Namespace) -> int:
    host.install([*host.TESTBED, *host.TESTS])
    return 0


def _clean_cache(_: argparse.Namespace) -> int:
    print(f'removing "{cache.root()}"')
    cache.clear()
    return 0


COMMANDS = {
    "demo": (_demo, "show the main job with its proofs; writes build/demo/report.html"),
    "build": (_build, "build what is not cached: kernel, Xen, the roots of Dom0 and the DomU"),
    "kernel-bench": (
        _kernel_bench,
        "time MAP_REFS_TO_BUF against the other ways to map grants; writes build/kernel-bench/bench.md",
    ),
    "flip-bench": (_flip_bench, "count the instructions of a page flip in Dom0; writes build/flip-bench/bench.md"),
    "input-bench": (_input_bench, "time input events on their way to a DomU; writes build/input-bench/bench.md"),
    "view": (_view, "boot a kiosk with a guest's desktop, to sit down and use: in a window, else by VNC"),
    "shell": (_shell, "boot, print how to reach Dom0 by SSH, wait"),
    "oe-test": (_oe_test, "run the image tests by oe-core's own oe-test against the testbed's Dom0"),
    "layer-build": (_layer_build, "build the layer's recipes and images by real bitbake; writes build/layer-build"),
    "layer-demo": (_layer_demo, "build them, and show the main job with these packages; writes build/layer-demo"),
    "host-packages": (_host_packages, "install the Debian packages that the testbed and all tests need (root)"),
    "clean-cache": (_clean_cache, "remove the cache folder"),
}


def main() -> int:
    """Parse the command line, run, turn errors into one sentence and an exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m testbed",
        description="Xen with a Dom0 and DomUs on QEMU arm64.",
        epilog=f"Big files are kept in ${cache.ENVIRONMENT} (default ~/.cache/xen-dmabuf-testbed), about 8 GB.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (function, words) in COMMANDS.items():
        command = commands.add_parser(name, help=words, description=words)
        command.set_defaults(function=function)
        if name == "flip-bench":
            flip_bench.add_arguments(command)
        if name == "oe-test":
            command.add_argument("oe_core", type=Path, help="a clone of openembedded-core")
            command.add_argument("tests", nargs="*", help="modules, module.Class or module.Class.method (default: all)")
        elif name in ("layer-build", "layer-demo"):
            command.add_argument("trees", help="the folder with the trees (OE_TREES), see docs/testing.md")
            command.add_argument("--sources", default="", help="a folder with what the network would give (OE_SOURCES)")
        if name == "layer-build":
            command.add_argument("--release", nargs="+", default=["wrynose", "scarthgap"], help="default: both")
            command.add_argument("--kernel", choices=("none", "checked", "compiled"), default="checked")
        elif name == "layer-demo":
            command.add_argument("--release", default="wrynose", help="default: wrynose")
            words = "whose kernel is booted: the testbed's, or bitbake's (default: none of bitbake's)"
            command.add_argument("--kernel", choices=("none", "compiled"), default="none", help=words)
    arguments = parser.parse_args()
    try:
        status: int = arguments.function(arguments)
        return status
    except LostVMError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 3
    except (TestbedError, ProofError, TimeoutError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        try:
            with cache.disk_errors_explained("testbed"):
                raise error
        except TestbedError as explained:
            print(f"testbed: {explained}", file=sys.stderr)
            return 2
    except KeyboardInterrupt:
        print("testbed: interrupted; what was built so far is kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
