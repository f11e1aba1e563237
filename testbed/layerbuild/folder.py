# SPDX-License-Identifier: MIT
"""A build folder of bitbake inside the build root: its configuration, and a command run in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .. import cache, layout, oetrees
from ..errors import TestbedError
from . import buildroot, sysroot

HOST_LAYER = Path("testbed/layerbuild/meta-debian-host")
"""Relative to the repository."""
ONLY_IN = {"scarthgap": 'TCLIBCAPPEND = ""\n'}
"""What wrynose refuses to read: without it, scarthgap's TMPDIR is "tmp-glibc"."""


@dataclass(frozen=True)
class Inputs:
    """What bitbake builds from, all of it made or checked before."""

    root: Path
    debs: Path
    trees: oetrees.Trees
    sources: Path | None


@dataclass(frozen=True)
class Folder:
    """A machine's build folder; downloads and shared state are the release's."""

    inputs: Inputs
    path: Path
    config: oetrees.Config
    purpose: str = ""
    """After the machine in its name, where that has several: what one configuration builds another one removes."""

    @property
    def name(self) -> str:
        """Release and machine, for people."""
        return f"{self.inputs.trees.release} {self.config['machine']}"

    @property
    def conf(self) -> Path:
        """The folder of its configuration on the host."""
        return self.path / self._own / "conf"

    @property
    def tmp(self) -> Path:
        """bitbake's TMPDIR on the host."""
        return self.path / self._own / "tmp"

    @property
    def _own(self) -> str:
        return str(self.config["machine"]) + self.purpose

    def prepare(self, extra: str = "") -> None:
        """Write its configuration; ``extra`` are further lines of local.conf."""
        self.conf.mkdir(parents=True, exist_ok=True)
        layers = [str(inside(name) / folder) for name, folder in oetrees.layers(self.config)]
        layers.append(str(inside(None) / HOST_LAYER))
        self._write("bblayers.conf", f'BBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "{" ".join(layers)}"\n')
        self._write("debian-sysroot.inc", sysroot.include(self.inputs.debs))
        self._write("local.conf", self._local(extra))
        for folder in (self.path, self.conf.parent, self.conf):
            os.chown(folder, buildroot.USER, buildroot.USER)

    def _write(self, name: str, text: str) -> None:
        """Write a file of conf/, if it changed: bitbake parses all recipes again after a touch."""
        file = self.conf / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")

    def _local(self, extra: str) -> str:
        headers = self.config.get("local_conf_header", {}).values()
        shared = buildroot.WORK / "build"
        processors = len(os.sched_getaffinity(0))
        return (
            f'MACHINE = "{self.config["machine"]}"\nDISTRO = "{self.config["distro"]}"\n'
            + "\n".join(headers)
            # as kas/testimage.yml
            + 'DISTRO_FEATURES:append = " ptest"\n'
            + f'DEBIAN_PYTHON = "{sysroot.PYTHON}"\nDEBIAN_SYSROOT_FOLDER = "{buildroot.WORK / "debs"}"\n'
            + f'DL_DIR = "{shared / "downloads"}"\nSSTATE_DIR = "{shared / "sstate"}"\n'
            + f'BB_NUMBER_THREADS = "{processors}"\nPARALLEL_MAKE = "-j {processors}"\n'
            + 'CONNECTIVITY_CHECK_URIS = ""\nACCEPT_FSL_EULA = "1"\n'
            + "require conf/include/debian-host.inc\n"
            + ONLY_IN.get(self.inputs.trees.release, "")
            + self._mirrors()
            + extra
        )

    def _mirrors(self) -> str:
        """OE_SOURCES comes before the network."""
        if self.inputs.sources is None:
            return ""
        return f'PREMIRRORS:prepend = "https?://.*/.* file://{buildroot.WORK / "sources"} "\n'

    def command(self, script: str) -> list[str]:
        """The command line that runs a bash script in the initialised build folder."""
        mounts = {**repositories(self.inputs.trees, self.config), "debs": self.inputs.debs}
        if self.inputs.sources is not None:
            mounts["sources"] = self.inputs.sources
        folder = buildroot.WORK / "build" / self._own
        enter = oetrees.enter(inside(oetrees.CORE), inside("bitbake"), folder)
        return buildroot.command(self.inputs.root, buildroot.Mounts(mounts, self.path), f"{enter} && {script}")


def inside(repository: str | None) -> Path:
    """A repository's folder as bitbake sees it in the build root; None is this one."""
    return buildroot.WORK / ("project" if repository is None else f"trees/{repository}")


def repositories(trees: oetrees.Trees, config: oetrees.Config) -> dict[str, Path]:
    """Where they are on the host, by their path below WORK: those of a configuration, and this one."""
    named = {str(inside(name).relative_to(buildroot.WORK)): path for name, path in trees.repositories(config).items()}
    return {**named, str(inside(None).relative_to(buildroot.WORK)): layout.REPOSITORY}


def one(tmp: Path, pattern: str) -> Path:
    """The only path below a folder that has a pattern; raises TestbedError if there is none, or several."""
    found = list(tmp.glob(pattern))
    if len(found) != 1:
        raise TestbedError(f'"{tmp}" has {len(found)} of {pattern}, not one; run "make clean-cache"')
    return found[0]


def of(inputs: Inputs, machine: str, key: dict[str, str]) -> Folder:
    """The folder of a release and a machine, made by kas's configuration; ``key`` says when to start a new one."""
    name = f"layer-build-{inputs.trees.release}"
    path = cache.folder(name, key)
    path.mkdir(parents=True, exist_ok=True)
    os.utime(path)
    cache.prune(name)
    config = oetrees.compose(oetrees.kas_files(machine, inputs.trees.release), path)
    return Folder(inputs, path, config)
