# SPDX-License-Identifier: MIT
"""Debian's arm64 packages and their sources, fetched on any host with an apt of their own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import cache, process
from .errors import MissingSourceError, TestbedError

SUITE = "trixie"
ENVIRONMENT = "XEN_DMABUF_DEBIAN"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def mirror() -> str:
    """The Debian archive that ENVIRONMENT names, else the one that this machine's apt is configured for.

    No archive is named here. Raises TestbedError: there is none, as on Ubuntu, or what is named is no address.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        if not re.fullmatch(r"[a-z][a-z+]*:/\S+", named):
            raise TestbedError(
                f'{ENVIRONMENT} is "{named}": it has to be the address of a Debian archive, http://…/debian'
            )
        return named
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"],
        text=True,
        capture_output=True,
        check=False,
    ).stdout
    for line in listing.splitlines():
        uri, release, component, *origin = line.split()
        if component == "main" and origin == ["Debian"] and not re.search(r"security|updates", uri + release):
            return uri
    raise TestbedError(
        'apt has no Debian archive with lists: on Debian run "apt-get update" and check the apt sources; '
        f"elsewhere, on Ubuntu too, set {ENVIRONMENT} to the address of a Debian archive"
    )


def _dates() -> list[str]:
    """What this machine's apt thinks of lists that are out of date: mmdebstrap reads no configuration of it.

    Only suites that change have lists that end, so an archive that stands still serves trixie, but not forky.
    """
    names = ("Acquire::Check-Valid-Until", "Acquire::Check-Date")
    lines = process.run(["apt-config", "dump"], what="apt's configuration").splitlines()
    return [line.rstrip(";") for line in lines if line.split(" ")[0] in names]


class Apt:
    """An apt that knows only one suite for arm64; its state lives in the cache folder. Not thread-safe."""

    KIND: str
    """"deb" or "deb-src"."""
    LISTS: str
    """Pattern of the lists that it is of no use without."""

    def __init__(self, suite: str, folder: Path) -> None:
        self.suite = suite
        self.folder = folder
        self.uri = mirror()

    def _options(self) -> list[str]:
        options = {
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": self.folder / "lists",
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder / "cache",
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "root",
        }
        return [part for key, value in options.items() for part in ("-o", f"{key}={value}")]

    def update(self) -> None:
        """Fetch the package lists; offline, lists of an earlier run are used, with a word about it."""
        for name in ("lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "sources.list").write_text(
            f"{self.KIND} [signed-by={KEYRING}] {self.uri} {self.suite} main\n", encoding="utf-8"
        )
        try:
            process.run(
                ["apt-get", *self._options(), "-o", "APT::Update::Error-Mode=any", "update"],
                what=f"Debian {self.suite} package lists",
                remedy="is the network there?",
            )
        except TestbedError:
            if not self.has_lists():
                raise
            cache.say(f"Debian {self.suite}: the archive can't be reached, using the lists of the last run")

    def has_lists(self) -> bool:
        """Whether there are package lists, of whatever age."""
        return any((self.folder / "lists").glob(self.LISTS))


class Archive(Apt):
    """The binary packages of a suite."""

    KIND = "deb"
    LISTS = "*Packages*"

    def __init__(self, suite: str = SUITE) -> None:
        super().__init__(suite, cache.root() / ("apt" if suite == SUITE else f"apt-{suite}"))

    def version(self, package: str) -> str:
        """The version that would be installed."""
        return self.versions([package])[package]

    def versions(self, packages: Sequence[str]) -> dict[str, str]:
        """The versions that would be installed."""
        text = process.run(["apt-cache", *self._options(), "policy", *packages], what=" ".join(packages))
        found = dict(re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (\S+)", text, re.M))
        for package in packages:
            if found.get(package, "(none)") == "(none)":
                raise TestbedError(f'Debian {self.suite} has no package "{package}"; is the archive complete?')
        return {package: found[package] for package in packages}

    def fetch(self, packages: Sequence[str]) -> dict[str, Path]:
        """The .deb files of packages (not of their dependencies), downloaded as far as they are not there."""
        archives = self.folder / "debs"
        archives.mkdir(exist_ok=True)
        versions = self.versions(packages)
        patterns = {p: f"{p}_{version.replace(':', '%3a')}_*.deb" for p, version in versions.items()}
        missing = [package for package in packages if not any(archives.glob(patterns[package]))]
        for package in missing:
            for old in archives.glob(f"{package}_*.deb"):
                old.unlink()
        if missing:
            process.run(
                ["apt-get", *self._options(), "download", *(f"{p}={versions[p]}" for p in missing)],
                what=" ".join(missing),
                cwd=archives,
                remedy="is the network there?",
            )
        return {package: next(archives.glob(patterns[package])) for package in packages}

    def unpack(self, packages: Sequence[str], folder: Path) -> None:
        """Download packages (not their dependencies) and unpack them into a folder."""
        for package, deb in self.fetch(packages).items():
            process.run(["dpkg-deb", "-x", str(deb), str(folder)], what=package)

    def bootstrap(self, packages: list[str], folder: Path) -> None:
        """Unpack packages and all their dependencies into a root, running no maintainer script."""
        process.run(
            [
                "mmdebstrap",
                "--quiet",
                "--architectures=arm64",
                "--variant=extract",
                '--aptopt=APT::Sandbox::User "root"',
                *(f"--aptopt={option}" for option in _dates()),
                "--skip=check/empty",
                f"--include={','.join(packages)}",
                self.suite,
                str(folder),
                f"deb [signed-by={KEYRING}] {self.uri} {self.suite} main",
            ],
            what=f"Debian {self.suite} arm64 root",
            remedy="is the network there?",
            env={"TMPDIR": os.environ.get("TMPDIR", "/tmp")},
        )


class Sources(Apt):
    """The source packages of a suite."""

    KIND = "deb-src"
    LISTS = "*Sources*"

    def __init__(self, suite: str = SUITE) -> None:
        super().__init__(suite, cache.root() / f"apt-src-{suite}")

    def version(self, package: str) -> str:
        """The version in the lists of the last update."""
        text = process.run(["apt-cache", *self._options(), "showsrc", "--only-source", package], what=package)
        found = re.search(r"^Version: (\S+)", text, re.M)
        if not found:
            raise TestbedError(f'Debian {self.suite} has no source package "{package}"; is the archive complete?')
        return found[1]

    def unpack(self, package: str, folder: Path) -> None:
        """Download a source package and unpack it, with Debian's own patches applied, as ``folder``.

        Raises MissingSourceError if the download fails.
        """
        downloads = self.folder / "packages" / package
        downloads.mkdir(parents=True, exist_ok=True)
        version = self.version(package)
        try:
            process.run(
                ["apt-get", *self._options(), "source", "--download-only", "--only-source", f"{package}={version}"],
                what=f"source package {package} {version}",
                cwd=downloads,
                remedy="is the network there, and does the archive have this source?",
            )
        except TestbedError as error:
            raise MissingSourceError(str(error)) from error
        files = re.sub(r"^\d+:", "", version)
        process.run(
            ["dpkg-source", "--no-check", "-x", str(downloads / f"{package}_{files}.dsc"), str(folder)],
            what=f"source package {package} {version}",
        )
