# SPDX-License-Identifier: MIT
"""Compiling what the patches touch, and the board's device trees."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from testbed import layout
from testbed.errors import TestbedError

from .run import run

MAKE = ["make", "ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-", "LOCALVERSION="]
SELFTEST = "tools/testing/selftests/drivers/xen"
DEVICE_TREES = layout.LAYER / "dynamic-layers/freescale-layer/recipes-kernel/linux/xen-dmabuf-imx"
BOARDS = Path("arch/arm64/boot/dts/freescale")
NXP_ONLY = BOARDS / "imx8qm-xen.dtsi"
"""The board's trees refer to nodes that only NXP's kernels have; this file tells these kernels."""
GUEST = """
CONFIG_INPUT=y
CONFIG_INPUT_MISC=y
CONFIG_INPUT_XEN_KBDDEV_FRONTEND=y
CONFIG_DRM_FBDEV_EMULATION=y
"""
KUNIT = """
CONFIG_64BIT=y
CONFIG_ARM64_4K_PAGES=y
CONFIG_DEBUG_FS=y
CONFIG_MODULES=y
CONFIG_MODULE_UNLOAD=y
CONFIG_KUNIT=y
CONFIG_KUNIT_ALL_TESTS=y
"""


def configure(tree: Path) -> None:
    """A small configuration with everything that the series touches; and what compiling needs.

    TestbedError: the tree can't be configured, for instance since it isn't complete.
    """
    fragments = "".join(fragment.read_text() for fragment in layout.KERNEL_FRAGMENTS)
    (tree / "check.config").write_text(fragments + GUEST + KUNIT)
    for step in (["KCONFIG_ALLCONFIG=check.config", "allnoconfig"], ["-j2", "prepare"]):
        status, output = run([*MAKE, *step], tree)
        if status:
            raise TestbedError(f"make {step[-1]} failed in a copy of the tree:\n{output[-2000:]}")


def has_sparse(tree: Path) -> bool:
    """Does this kernel accept the sparse of this machine?"""
    script = tree / "scripts/checker-valid.sh"
    if not shutil.which("sparse"):
        return False
    return not script.exists() or run(["sh", str(script), "sparse"], tree)[1].strip() != "1"


def objects(tree: Path, files: list[str]) -> list[str]:
    """The objects of those touched files that are there; a test that another file includes has none."""
    sources = [name for name in files if re.match(r"(drivers|arch/arm64)/.*\.c$", name) and (tree / name).exists()]
    texts = [(tree / name).read_text() for name in sources]
    return [name[:-1] + "o" for name in sources if not any(f'#include "{Path(name).name}"' in text for text in texts)]


def compile_objects(tree: Path, files: list[str], jobs: int, sparse: bool) -> list[str]:
    """Compile the objects of touched files with W=1; return warnings and errors in these files."""
    names = objects(tree, files)
    for name in names:
        (tree / name).unlink(missing_ok=True)
    status, output = run([*MAKE, f"-j{jobs}", "W=1", *(["C=1"] if sparse else []), *names], tree)
    ours = re.compile(rf"^(\./)?({'|'.join(re.escape(name) for name in files)}):.*(warning|error):")
    problems = [line for line in output.splitlines() if ours.search(line)]
    if status and not problems:
        problems = ["does not compile:\n" + "\n".join(output.splitlines()[-15:])]
    return problems


def compile_selftest(tree: Path, files: list[str]) -> list[str]:
    """Build the selftest; return warnings and errors."""
    if not any(name.startswith(SELFTEST) for name in files) or not (tree / SELFTEST).exists():
        return []
    (tree / "usr/selftest").mkdir(exist_ok=True)
    status, output = run([*MAKE, "-s", f"INSTALL_HDR_PATH={tree}/usr", "headers_install"], tree)
    if not status:
        status, output = run(
            [
                *MAKE,
                "-s",
                "-C",
                SELFTEST,
                "CC=aarch64-linux-gnu-gcc",
                "LDFLAGS=-static",
                f"KHDR_INCLUDES=-isystem {tree}/usr/include",
                f"OUTPUT={tree}/usr/selftest",
            ],
            tree,
        )
    problems = [line for line in output.splitlines() if "gntdev_dmabuf" in line and "warning:" in line]
    return [output[-1500:]] if status else problems


def device_trees(tree: Path) -> list[Path]:
    """The board's device trees that this kernel can compile; none for any but NXP's."""
    return sorted(DEVICE_TREES.glob("*.dts")) if (tree / NXP_ONLY).exists() else []


def compile_device_tree(tree: Path, source: Path) -> list[str]:
    """Compile one as the layer's recipe does, among the kernel's own; return the problems with our files."""
    ours = {path.name for path in DEVICE_TREES.glob("*.dts*")}
    for name in ours:
        shutil.copy(DEVICE_TREES / name, tree / BOARDS)
    status, output = run([*MAKE, "W=1", f"freescale/{source.stem}.dtb"], tree)
    problems = [line for line in output.splitlines() if "Warning" in line and any(f"/{name}:" in line for name in ours)]
    return [f"does not compile:\n{output[-2000:]}"] if status else problems
