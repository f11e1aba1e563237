# SPDX-License-Identifier: MIT
"""Packages in Debian's format: what one says of itself, and what is in it."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import TestbedError

ARCHITECTURES = ("arm64", "all")
HOW = 'run "make layer-build OE_TREES=…", then they are in build/layer-build/<release>/qemuarm64/packages'


@dataclass(frozen=True)
class Deb:
    """A package."""

    file: Path
    fields: Mapping[str, str]
    """Of its control file, by their names in lower case."""

    @property
    def name(self) -> str:
        return self.fields["package"]

    @property
    def version(self) -> str:
        return self.fields["version"]

    def words(self, field: str) -> list[str]:
        """A field with commas ("Depends") in its parts; empty if it isn't there."""
        return [word.strip() for word in self.fields.get(field.lower(), "").split(",") if word.strip()]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def files(self) -> dict[str, str]:
        """SHA-256 of each regular file in it, by its path without a slash before it."""
        found = {}
        with archive(content(self.file)) as members:
            for member in members:
                data = members.extractfile(member) if member.isreg() else None
                if data:
                    found[member.name.removeprefix("./")] = hashlib.sha256(data.read()).hexdigest()
        return found


def content(deb: Path) -> bytes:
    """The tar archive of a package's files; raises TestbedError if it is no package."""
    return _dpkg_deb("--fsys-tarfile", deb)


def archive(tar: bytes) -> tarfile.TarFile:
    """To look into it."""
    return tarfile.open(fileobj=io.BytesIO(tar))


def read(deb: Path) -> Deb:
    """A package by its file; raises TestbedError if it is none, or is for another machine."""
    text = _dpkg_deb("--field", deb).decode(errors="replace")
    unfolded = re.sub(r"\n[ \t]+", " ", text)
    pairs = (line.split(":", 1) for line in unfolded.splitlines() if ":" in line)
    found = Deb(deb, {name.strip().lower(): value.strip() for name, value in pairs})
    architecture = found.fields.get("architecture")
    if architecture not in ARCHITECTURES:
        raise TestbedError(f'"{deb}" is for {architecture}, the guests are arm64; {HOW}')
    return found


def of_folder(folder: Path) -> dict[str, Deb]:
    """The packages of a folder, by name; raises TestbedError if there is none, or one in two versions."""
    files = sorted(folder.glob("*.deb"))
    if not files:
        raise TestbedError(f'"{folder}" has no packages (.deb); {HOW}')
    found: dict[str, Deb] = {}
    for deb in map(read, files):
        if deb.name in found:
            raise TestbedError(
                f'"{folder}" has {deb.name} twice: remove {found[deb.name].file.name} or {deb.file.name}'
            )
        found[deb.name] = deb
    return found


def _dpkg_deb(option: str, deb: Path) -> bytes:
    done = subprocess.run(["dpkg-deb", option, str(deb)], capture_output=True, check=False)
    if done.returncode:
        raise TestbedError(f'"{deb}" is no Debian package; build it again: remove it and {HOW}')
    return done.stdout
