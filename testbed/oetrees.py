# SPDX-License-Identifier: MIT
"""Ready trees of OpenEmbedded, and build folders over them, configured by the project's own kas files.

OE_TREES names a folder with one folder per release (wrynose, scarthgap) that
holds the repositories of kas/base.yml under their kas names, at any commit:

    OE_TREES/wrynose/{bitbake,openembedded-core,meta-openembedded,…}

kas composes the configuration; what kas would clone is taken from there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import TestbedError
from .layout import REPOSITORY

RELEASES = ("wrynose", "scarthgap")
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
        for name, layer in layers(config):
            if name:
                self._check_layer(self.folder / name / layer)

    def _check_bitbake(self, wanted: str) -> None:
        version = _assigned(self.folder / "bitbake/lib/bb/__init__.py", "__version__")
        if version is None:
            raise TestbedError(f'"{self.folder / "bitbake"}" is not bitbake: it has no lib/bb; {HOW}')
        if version.split(".")[:2] != wanted.split("."):
            raise TestbedError(
                f'"{self.folder / "bitbake"}" is bitbake {version}, but {self.release} needs {wanted}; '
                f"check out its branch {wanted}"
            )

    def _check_layer(self, layer: Path) -> None:
        conf = layer / "conf/layer.conf"
        named = _assigned(conf, r"LAYERSERIES_(?:COMPAT_\S+|CORENAMES)")
        if named is None:
            raise TestbedError(f'"{layer}" is not there or no layer: it has no conf/layer.conf; {HOW}')
        if self.release not in named.split():
            raise TestbedError(f'"{layer}" is for {named}, not for {self.release}; check out its branch {self.release}')


def trees_of(name: str, release: str) -> Trees:
    """The trees of a release below the folder that OE_TREES names; raises TestbedError if it names none."""
    if not name:
        raise TestbedError(f"OE_TREES is not set; set it to the folder with the trees, {HOW}")
    if release not in RELEASES:
        raise TestbedError(f'"{release}" is no release that the layer is for; choose from {", ".join(RELEASES)}')
    if not Path(name).is_dir():
        raise TestbedError(f'OE_TREES is "{name}", which is no folder; {HOW}')
    return Trees(Path(name).resolve() / release, release)


def _assigned(file: Path, variable: str) -> str | None:
    """The first value in quotes that a file gives a variable (a pattern); None without file or variable."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(rf'^{variable}\s*\??=\s*"([^"]*)"', text, re.M)
    return found[1] if found else None
