# SPDX-License-Identifier: MIT
"""The patched arm64 kernel: Debian's source, the layer's patches and fragments, QEMU's drivers.

``XEN_DMABUF_KERNEL`` chooses the line.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from xen_dmabuf_layer import kernelseries

from . import cache, layout, process
from .choice import chosen
from .debian import Archive
from .errors import TestbedError

ENVIRONMENT = "XEN_DMABUF_KERNEL"
SUITES = {"6.12": "trixie", "7.2": "sid"}
"""Kernel lines, and the Debian suite that has the source of each."""
DEFAULT = "6.12"
SELFTEST = "tools/testing/selftests/drivers/xen"
TEST_MODULES = layout.KERNEL_PROGRAMS / "modules"


def line() -> str:
    """The kernel line of Dom0 and the DomUs, by the environment."""
    return chosen(ENVIRONMENT, SUITES, DEFAULT)


def source_package() -> str:
    """Debian's package of that line's source."""
    return f"linux-source-{line()}"


def patches(extra: bool = False) -> list[Path]:
    """The series in order, the same files as the layer's; extra: those that it applies only when asked, too."""
    found = kernelseries.patches(layout.REPOSITORY, line(), extra)
    if not found:
        raise TestbedError(
            f'no patches for "{line()}" in "{layout.REPOSITORY}/{kernelseries.TOP}"; is the whole repository cloned?'
        )
    return [Path(path) for path in found]


def extra_patches() -> list[Path]:
    """What patches(extra=True) has on top of the series; they come last."""
    return patches(extra=True)[len(patches()) :]


def fragments() -> list[Path]:
    """Kernel configuration: the layer's fragments, what QEMU needs, and what only this line calls so."""
    return [*layout.KERNEL_FRAGMENTS, layout.TESTBED_FRAGMENT, layout.TESTBED_KERNEL / f"qemu-arm64-{line()}.cfg"]


def wanted_symbols(files: list[Path]) -> dict[str, str]:
    """Symbol -> value ("n" for "is not set") over all fragments; later files win."""
    wanted = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("CONFIG_"):
                name, value = line.split("=", 1)
                wanted[name] = value
            elif line.endswith(" is not set"):
                wanted[line.split()[1]] = "n"
    return wanted


def check_config(config: Path, wanted: dict[str, str]) -> None:
    """Every symbol of the fragments has its value in the final configuration; else an error names it."""
    got = wanted_symbols([config])
    lost = [
        f"{name}={value} (is {got.get(name, 'n')})" for name, value in wanted.items() if got.get(name, "n") != value
    ]
    if lost:
        raise TestbedError(
            "kernel configuration: these symbols of the fragments did not take: "
            + ", ".join(lost)
            + "; does something that they depend on lack?"
        )


def make(tree: Path, *targets: str, log: Path | None = None) -> None:
    """make for arm64 with a compiler cache in the cache folder."""
    jobs = os.cpu_count() or 1
    process.run(
        [
            "make",
            f"-j{jobs}",
            "ARCH=arm64",
            "CROSS_COMPILE=aarch64-linux-gnu-",
            "CC=ccache aarch64-linux-gnu-gcc",
            "KBUILD_BUILD_TIMESTAMP=2026-01-01",
            "KBUILD_BUILD_USER=testbed",
            "KBUILD_BUILD_HOST=testbed",
            *targets,
        ],
        what=f"kernel, make {' '.join(targets)}",
        cwd=tree,
        log=log,
        env={
            "CCACHE_DIR": str(cache.root() / "ccache"),
            "CCACHE_MAXSIZE": "3G",
            "CCACHE_BASEDIR": str(tree),
            "CCACHE_NOHASHDIR": "1",
            # take the include files from the compiler's own list: no second run of the preprocessor
            "CCACHE_DEPEND": "1",
        },
    )


def unpack(folder: Path, more: tuple[Path, ...] = ()) -> Path:
    """Debian's kernel source with the series and more patches applied."""
    archive = Archive(SUITES[line()])
    archive.update()
    archive.unpack([source_package()], folder / "source")
    tarball = next((folder / "source/usr/src").glob("linux-source-*.tar.xz"))
    process.run(["tar", "-C", str(folder), "-xf", str(tarball)], what="kernel source")
    shutil.rmtree(folder / "source")
    tree = next(folder.glob("linux-source-*"))
    for patch in [*patches(), *more]:
        process.run(
            ["patch", "-p1", "--forward", "--fuzz=0", "-i", str(patch)],
            cwd=tree,
            what=f"kernel patch {patch.name}",
            remedy=f"rebase it onto {archive.version(source_package())}",
        )
    return tree


def configure(tree: Path, extra: tuple[Path, ...] = ()) -> None:
    """allnoconfig plus the fragments; a symbol that does not take is an error."""
    files = [*fragments(), *extra]
    wanted = wanted_symbols(files)
    merged = tree / "testbed.config"
    merged.write_text(
        "".join(f"# {name} is not set\n" if value == "n" else f"{name}={value}\n" for name, value in wanted.items()),
        encoding="utf-8",
    )
    make(tree, f"KCONFIG_ALLCONFIG={merged}", "allnoconfig")
    check_config(tree / ".config", wanted)


def compile_into(folder: Path, extra: tuple[Path, ...] = (), more: tuple[Path, ...] = ()) -> None:
    """Image, config, modules/, selftests/, test-modules/ and include/ of a kernel with additional fragments and
    patches."""
    tree = unpack(folder, more)
    configure(tree, extra)
    cache.say("kernel: compiling about 1,900 files (10 minutes on 2 cores when nothing is cached)")
    make(tree, "Image", "modules", log=folder / "build.log")
    make(tree, f"INSTALL_MOD_PATH={folder}/modules", "modules_install", log=folder / "modules.log")
    shutil.copy(tree / "arch/arm64/boot/Image", folder / "Image")
    shutil.copy(tree / ".config", folder / "config")
    for link in (folder / "modules").rglob("build"):
        link.unlink()
    _build_selftests(tree, folder / "selftests")
    _build_test_modules(tree, folder / "test-modules")
    _keep_headers(tree, folder / "include")
    shutil.rmtree(tree)


def _build_selftests(tree: Path, target: Path) -> None:
    """The series' own selftests, linked statically so that any root can run them."""
    target.mkdir()
    source = tree / SELFTEST
    if not source.is_dir():
        raise TestbedError(f'the kernel series has no selftest folder "{SELFTEST}"')
    make(tree, f"INSTALL_HDR_PATH={tree}/usr", "headers_install")
    make(
        tree,
        "-C",
        str(source),
        "KHDR_INCLUDES=-isystem " + str(tree / "usr/include"),
        "CC=aarch64-linux-gnu-gcc",
        "LDFLAGS=-static",
        f"OUTPUT={target}",
    )


def _build_test_modules(tree: Path, target: Path) -> None:
    """The modules of tests/kernel/modules; they need the tree, which doesn't stay."""
    work = tree.parent / "module-sources"
    shutil.copytree(TEST_MODULES, work)
    make(tree, f"M={work}", "modules")
    target.mkdir()
    for module in work.glob("*.ko"):
        shutil.copy(module, target)
    shutil.rmtree(work)


def _keep_headers(tree: Path, target: Path) -> None:
    """What tests/kernel is compiled with: the user space API, and the helpers of the selftests."""
    shutil.copytree(tree / "usr/include", target / "uapi")
    (target / "selftests").mkdir()
    for header in (*(tree / SELFTEST).glob("*.h"), tree / "tools/testing/selftests/kselftest.h"):
        shutil.copy(header, target / "selftests")


def inputs() -> dict[str, str]:
    """What the plain kernel is made of, for the cache."""
    return {
        "source": source_package(),
        "series": cache.digest(patches()),
        "fragments": cache.digest(fragments()),
        "test modules": cache.digest([TEST_MODULES]),
        "recipe": cache.digest([Path(__file__)]),
    }


def build() -> Path:
    """Folder with Image, config, modules/, selftests/, test-modules/ and include/."""
    return cache.stage(f"kernel-{line()}", inputs(), compile_into)
