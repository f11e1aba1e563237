# SPDX-License-Identifier: MIT
"""linux-yocto with all of the layer's patches and options, as far as it is asked for."""

from __future__ import annotations

import enum
import re
import shutil
import subprocess
from pathlib import Path

from .. import process
from ..cache import say
from ..errors import TestbedError
from . import bitbake, buildroot
from .folder import Folder, one

RECIPE = "linux-yocto"
PURPOSE = "-kernel"
KERNEL = "kernel"
"""Folder of a machine's output that the compiled one is in."""
HOST = "git://git.yoctoproject.org"


class Until(enum.Enum):
    """How far the kernel is built."""

    NONE = "none"
    CHECKED = "checked"
    """Patches applied, configured, and every option that the layer needs found in .config."""
    COMPILED = "compiled"
    """Image and modules, too."""

    @property
    def task(self) -> str:
        """The last task."""
        return "install" if self is Until.COMPILED else "xen_dmabuf_configcheck"


def build(folder: Folder, until: Until, output: Path) -> None:
    """Run linux-yocto's tasks in a build folder. Raises TestbedError if one fails.

    In the images' configuration oe-core skips this recipe, and a folder of both would lose half an hour of compiling.
    """
    folder.prepare(from_clones(folder))
    say(f"{folder.name}: bitbake {RECIPE} -c {until.task}")
    done = bitbake.run(folder, [RECIPE, "-c", until.task], output / "kernel.log")
    for warning in done.warnings:
        say(f"{folder.name}: warning: {warning}")
    say(f"{folder.name}: {RECIPE} up to do_{until.task}: {done.closing}")
    if until is Until.COMPILED:
        _copy(folder, output / str(folder.config["machine"]) / KERNEL)


def _copy(folder: Folder, target: Path) -> None:
    """Image and modules/ as the testbed's own kernels have them; symbols for a debugger stay with bitbake."""
    installed = f"work/*/{RECIPE}/*/image"
    boot, modules = one(folder.tmp, f"{installed}/boot/Image-*"), one(folder.tmp, f"{installed}/**/lib/modules/*/")
    target.mkdir(parents=True)
    shutil.copy(boot, target / "Image")
    copied = Path(shutil.copytree(modules, target / "modules/lib/modules" / modules.name, symlinks=True))
    for link in (copied / "build", copied / "source"):
        link.unlink(missing_ok=True)
    for module in copied.rglob("*.ko"):
        process.run(["aarch64-linux-gnu-strip", "--strip-debug", str(module)], what=module.name)
    # an image's build does so when it installs the packages
    process.run(["depmod", "-b", str(target / "modules"), modules.name], what="depmod")
    say(f'{folder.name}: Linux {modules.name}: "{target}"')


def from_clones(folder: Folder) -> str:
    """Lines of local.conf that take the three repositories from OE_SOURCES/git/<release>, at what is checked out there.

    Empty without that folder: then they come from the network, at the recipes' commits.
    """
    release = folder.inputs.trees.release
    clones = (folder.inputs.sources or Path("/nonexistent")) / "git" / release
    if not clones.is_dir():
        return ""
    inside = buildroot.WORK / "sources/git" / release
    linux, cache, tools = (clones / name for name in ("linux-yocto", "yocto-kernel-cache", "yocto-kernel-tools"))
    version, metadata = _version(linux), _git(cache, "rev-parse", "HEAD")
    say(f"{folder.name}: Linux {version} and the kernel's metadata of OE_SOURCES, not the recipe's commits")
    urls = {f"{linux.name}.git": linux, cache.name: cache, f"{tools.name}.git": tools}
    for url, clone in urls.items():
        _forget(folder.path / "downloads/git2", url, _git(clone, "rev-parse", "HEAD"))
    mirrors = " ".join(f"{HOST}/{url} git://{inside / clone.name};protocol=file" for url, clone in urls.items())
    # meta-virtualization's recipe of the same metadata; wrynose's has the line in its name
    fragments = (f"yocto-cfg-fragments{end}-native" for end in ("", f"-{version.rpartition('.')[0]}"))
    return (
        f'PREMIRRORS:prepend = "{mirrors} "\n'
        f'LINUX_VERSION:pn-{RECIPE}:forcevariable = "{version}"\n'
        f'KBRANCH:pn-{RECIPE}:forcevariable = "{_git(linux, "symbolic-ref", "--short", "HEAD")}"\n'
        f'SRCREV_machine:pn-{RECIPE}:forcevariable = "{_git(linux, "rev-parse", "HEAD")}"\n'
        f'SRCREV_meta:pn-{RECIPE}:forcevariable = "{metadata}"\n'
        + "".join(f'SRCREV:pn-{name}:forcevariable = "{metadata}"\n' for name in fragments)
        + f'SRCREV:pn-kern-tools-native:forcevariable = "{_git(tools, "rev-parse", "HEAD")}"\n'
    )


def _forget(downloads: Path, url: str, commit: str) -> None:
    """Remove bitbake's copy of a repository without that commit: it asks no mirror for what it has in part."""
    link = downloads / f"{HOST.removeprefix('git://')}.{url}"
    if not link.is_symlink():
        return
    copy = downloads / link.readlink().name  # absolute, as bitbake sees it
    there = ["git", "-c", "safe.directory=*", "-C", str(copy), "cat-file", "-e", commit]
    if subprocess.run(there, capture_output=True, check=False).returncode:
        say(f'{url} is another one by now: "{copy}" is fetched again')
        link.unlink()
        shutil.rmtree(copy, ignore_errors=True)


def _git(clone: Path, *words: str) -> str:
    if not clone.is_dir():
        raise TestbedError(f'OE_SOURCES has no git repository "{clone}"; clone it there, or remove "{clone.parent}"')
    return process.run(["git", "-c", "safe.directory=*", "-C", str(clone), *words], what=str(clone)).strip()


def _version(linux: Path) -> str:
    """A kernel's version ("6.12.47"), of its Makefile."""
    text = _git(linux, "show", "HEAD:Makefile")
    numbers = [re.search(rf"^{word} = (\d+)$", text, re.M) for word in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    if not all(numbers):
        raise TestbedError(f'"{linux}" is not Linux: its Makefile has no version; clone linux-yocto there')
    return ".".join(number[1] for number in numbers if number)
