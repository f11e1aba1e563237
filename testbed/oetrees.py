# SPDX-License-Identifier: MIT
"""Ready trees of OpenEmbedded, and build folders over them, configured by the project's own kas files.

OE_TREES names a folder with one folder per release (wrynose, scarthgap, blacksail)
that holds the repositories of kas/base.yml under their kas names, at any commit:

    OE_TREES/wrynose/{bitbake,openembedded-core,meta-openembedded,…}

kas composes the configuration; what kas would clone is taken from there.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import TestbedError
from .layout import REPOSITORY

RELEASES = ("wrynose", "scarthgap")
"""What a command takes where none is named."""
NEXT = "blacksail"
"""The release after wrynose, of master branches: taken where it is named."""
MASTER = "master"
CORE = "openembedded-core"
MACHINES = ("qemuarm64", "imx8qm-mek")
# Composing needs no repository, and a test must not fetch any.
NO_CHECKOUT = ("repo_setup_loop", "finish_setup_repos", "repos_checkout")
HOW = "docs/testing.md says how to get the trees"

Config = dict[str, Any]
"""What kas makes of its files."""


def kas_files(machine: str, release: str) -> list[str]:
    """The kas files of a machine and a release, relative to the repository's root."""
    files = [f"kas/{machine}.yml"]
    return files if release == "wrynose" else [*files, f"kas/{release}.yml"]


def compose(files: list[str], work_dir: Path) -> Config:
    """The configuration that `kas dump` makes of a list of kas files, with a scratch folder for kas.

    Raises subprocess.CalledProcessError: kas refused them.
    """
    skips = [word for step in NO_CHECKOUT for word in ("--skip", step)]
    command = [sys.executable, "-m", "kas", "dump", *skips, ":".join(files)]
    env = {**os.environ, "KAS_WORK_DIR": str(work_dir)}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, check=True, capture_output=True, text=True)
    config: Config = yaml.safe_load(done.stdout)
    return config


def layers(config: Config) -> Iterator[tuple[str | None, str]]:
    """The (repository, folder in it) of each layer of a configuration; None is this repository."""
    for name, repo in config["repos"].items():
        repo = repo or {}
        for folder, state in (repo.get("layers") or {"": None}).items():
            if state != "disabled":
                yield (name if "url" in repo else None), folder


def enter(core: Path, bitbake: Path, folder: Path) -> str:
    """The shell command that goes into a build folder and has bitbake's environment from then on."""
    words = [shlex.quote(str(path)) for path in (bitbake / "lib", core, folder, bitbake)]
    # oe-core adds to it, and an empty word of it is the build folder: there bitbake 2.19 finds tables that it wrote
    # as it may not write into its own folder, and fails on them.
    return "export PYTHONPATH={} && cd {} && . ./oe-init-build-env {} {} >/dev/null".format(*words)


@dataclass(frozen=True)
class Trees:
    """One release's trees."""

    folder: Path
    release: str

    def repositories(self, config: Config) -> dict[str, Path]:
        """The folder of each repository that a configuration names, links followed."""
        return {name: (self.folder / name).resolve() for name, repo in config["repos"].items() if "url" in (repo or {})}

    def check(self, config: Config) -> None:
        """Raise TestbedError unless everything that a configuration wants is there and of this release."""
        if not self.folder.is_dir():
            raise TestbedError(f'OE_TREES has no folder "{self.release}" ("{self.folder}"); {HOW}')
        self._check_bitbake(str(config["repos"]["bitbake"]["branch"]))
        branch = str(config["defaults"]["repos"]["branch"])
        # bitbake's own rule: oe-core names the releases whose layers fit it
        fitting = _assigned(self.folder / CORE / "meta/conf/layer.conf", "LAYERSERIES_CORENAMES") or ""
        for name, layer in layers(config):
            if name:
                wanted = {self.release} if name == CORE else {self.release, *fitting.split()}
                self._check_layer(self.folder / name / layer, wanted, branch)

    def _check_bitbake(self, wanted: str) -> None:
        version = _assigned(self.folder / "bitbake/lib/bb/__init__.py", "__version__")
        if version is None:
            raise TestbedError(f'"{self.folder / "bitbake"}" is not bitbake: it has no lib/bb; {HOW}')
        # master's is in motion; bitbake itself refuses one that is too old for oe-core
        if wanted != MASTER and version.split(".")[:2] != wanted.split("."):
            raise TestbedError(
                f'"{self.folder / "bitbake"}" is bitbake {version}, but {self.release} needs {wanted}; '
                f"check out its branch {wanted}"
            )

    def _check_layer(self, layer: Path, wanted: set[str], branch: str) -> None:
        named = _assigned(layer / "conf/layer.conf", r"LAYERSERIES_COMPAT_\S+")
        if named is None:
            raise TestbedError(f'"{layer}" is not there or no layer: it has no conf/layer.conf; {HOW}')
        if wanted.isdisjoint(named.split()):
            raise TestbedError(f'"{layer}" is for {named}, not for {self.release}; check out its branch {branch}')


def trees_of(name: str, release: str) -> Trees:
    """The trees of a release below the folder that OE_TREES names; raises TestbedError if it names none."""
    if not name:
        raise TestbedError(f"OE_TREES is not set; set it to the folder with the trees, {HOW}")
    if release not in (*RELEASES, NEXT):
        raise TestbedError(
            f'"{release}" is no release that the layer is for; choose from {", ".join((*RELEASES, NEXT))}'
        )
    if not Path(name).is_dir():
        raise TestbedError(f'OE_TREES is "{name}", which is no folder; {HOW}')
    return Trees(Path(name).resolve() / release, release)


def check(name: str, releases: Sequence[str]) -> list[Trees]:
    """The trees of each release, all that its machines want of them checked; raises TestbedError."""
    found = [trees_of(name, release) for release in releases]
    with tempfile.TemporaryDirectory() as scratch:
        for trees in found:
            for machine in MACHINES:
                trees.check(compose(kas_files(machine, trees.release), Path(scratch)))
    return found


def _assigned(file: Path, variable: str) -> str | None:
    """The first value in quotes that a file gives a variable (a pattern); None without file or variable."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(rf'^{variable}\s*\??=\s*"([^"]*)"', text, re.M)
    return found[1] if found else None
