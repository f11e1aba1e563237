# SPDX-License-Identifier: MIT
"""The Debian root in which bitbake runs: host tools, cross compiler, an ordinary user."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import cache, debian, process

USER = 1000
"""User and group number of bitbake's user in the root, and of what it writes outside."""
WORK = Path("/w")
"""Where folders of the host are mounted in the root: bitbake's paths are the same on every machine."""
LOCALE = "en_US.UTF-8"
PSEUDO_SUITE = "sid"
"""trixie has no pseudo, and bookworm's aborts ("path mismatch")."""

# What bitbake, oe-core's classes and linux-yocto call on the host.
TOOLS = """
    apt apt-utils bash bc bison build-essential bzip2 ca-certificates chrpath cpio device-tree-compiler diffstat
    e2fsprogs file flex gawk git iproute2 kmod libdw-dev libelf-dev libncurses-dev libssl-dev libwayland-bin
    libwayland-dev locales lz4 meson ninja-build openssl passwd patch perl pkgconf procps python3 python3-build
    python3-cffi python3-installer python3-setuptools python3-wheel quilt rpcsvc-proto rpm rsync systemd texinfo
    u-boot-tools unzip wget xz-utils zstd
"""
FROM_OTHER_SUITE = ("pseudo", "libpseudo")
CROSS = "crossbuild-essential-arm64"
PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def packages(architecture: str) -> list[str]:
    """The Debian packages of the root, for a host's architecture as dpkg names it."""
    cross = [] if architecture == "arm64" else [CROSS]
    return [*TOOLS.split(), *cross, *(f"{name}/{PSEUDO_SUITE}" for name in FROM_OTHER_SUITE)]


def build(versions: dict[str, str]) -> Path:
    """The root's folder, built by mmdebstrap if it isn't cached; needs root.

    ``versions`` are those of the arm64 packages that it must fit: another version of Python or the C library in
    the archive makes another root.
    """
    architecture = process.run(["dpkg", "--print-architecture"], what="dpkg").strip()
    options = _options(architecture)
    inputs = {"options": "\n".join(options), "suites": f"{debian.SUITE} {PSEUDO_SUITE}", **versions}
    return cache.stage("layer-build-root", inputs, lambda folder: _bootstrap(folder / "root", options)) / "root"


def _options(architecture: str) -> list[str]:
    """What makes the root what it is, as mmdebstrap's options."""
    hooks = (
        f'chroot "$1" useradd --create-home --uid {USER} --user-group builder',
        f'chroot "$1" localedef -i en_US -f UTF-8 {LOCALE}',
        # Trees and mirrors belong to whoever runs make.
        """chroot "$1" git config --system safe.directory '*'""",
        f'mkdir "$1"{WORK}',
    )
    return [
        "--mode=root",
        "--variant=minbase",
        f"--architectures={architecture}",
        '--aptopt=APT::Sandbox::User "root"',
        f'--aptopt=APT::Default-Release "{debian.SUITE}"',
        f"--include={','.join(packages(architecture))}",
        *(f"--customize-hook={hook}" for hook in hooks),
    ]


def _bootstrap(root: Path, options: Sequence[str]) -> None:
    mirror = debian.mirror()
    process.run(
        [
            # Its /proc and /dev in the root are gone with it, even if it is killed.
            *("unshare", "--mount", "mmdebstrap"),
            "--quiet",
            *options,
            debian.SUITE,
            str(root),
            f"deb [signed-by={debian.KEYRING}] {mirror} {debian.SUITE} main",
            # Lists of a suite in motion are only valid for a week, and a mirror may be older.
            f"deb [signed-by={debian.KEYRING} check-valid-until=no] {mirror} {PSEUDO_SUITE} main",
        ],
        what=f"Debian {debian.SUITE} root with bitbake's host tools",
        remedy="is the network there?",
        env={"TMPDIR": os.environ.get("TMPDIR", "/tmp")},
    )


@dataclass(frozen=True)
class Mounts:
    """Folders of the host as bitbake sees them below WORK."""

    read_only: Mapping[str, Path]
    """By their path below WORK."""
    build: Path
    """Configuration, downloads and everything that is built; the user's own."""


def command(root: Path, mounts: Mounts, script: str) -> list[str]:
    """The command line that runs a bash script in the root as the ordinary user; needs root.

    The mounts and all processes are gone when it ends, however it ends.
    """
    top = shlex.quote(str(root))
    lines = ["set -e", f"mount -t tmpfs tmpfs {top}{WORK}"]
    for name, folder in {**mounts.read_only, "build": mounts.build}.items():
        point = shlex.quote(f"{root}{WORK}/{name}")
        lines += [f"mkdir -p {point}", f"mount --bind {shlex.quote(str(folder))} {point}"]
        if name != "build":
            lines.append(f"mount -o remount,bind,ro {point}")
    lines += [
        f"mount -t proc proc {top}/proc",
        f"mount --rbind /dev {top}/dev",
        f"mount -t tmpfs tmpfs {top}/dev/shm",
        f"mount -t tmpfs tmpfs {top}/tmp",
        # The host's names of the network.
        f"test ! -e /etc/resolv.conf || cp --remove-destination /etc/resolv.conf {top}/etc/resolv.conf",
        # Not exec: the kernel forgets --kill-child where a process changes its user, and this shell stays root.
        f"status=0; {shlex.join(['chroot', str(root), *_as_user(script)])} || status=$?",
        "exit $status",
    ]
    # Whoever holds the build folder's lock may be killed; bitbake must not go on without it.
    with_us = ("setpriv", "--pdeathsig", "KILL")
    return [*with_us, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", "\n".join(lines)]


def _as_user(script: str) -> Sequence[str]:
    environment = {
        "HOME": "/home/builder",
        "USER": "builder",
        "LANG": LOCALE,
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "TERM": "dumb",
        **{name: os.environ[name] for name in PROXIES if name in os.environ},
    }
    pairs = [f"{key}={value}" for key, value in environment.items()]
    ids = (f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
    return ["setpriv", *ids, "env", "-i", *pairs, "bash", "-c", script]
