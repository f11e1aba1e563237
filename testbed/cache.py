# SPDX-License-Identifier: MIT
"""One cache folder for everything big, each product under a key made of its inputs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .errors import TestbedError

ENVIRONMENT = "XEN_DMABUF_CACHE"
KEPT_VERSIONS = 2
FULL_BELOW = 32 << 20  # bytes


def root() -> Path:
    """The cache folder: ``$XEN_DMABUF_CACHE``, else ``~/.cache/xen-dmabuf-testbed``."""
    configured = os.environ.get(ENVIRONMENT)
    folder = Path(configured) if configured else Path.home() / ".cache" / "xen-dmabuf-testbed"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TestbedError(
            f'cache folder "{folder}": {error.strerror}; set {ENVIRONMENT} to a folder that you can write'
        ) from error
    return folder


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files and whole folders, in a stable order.

    A link counts by its target's name: a unit is masked by a link to /dev/null.
    """
    state = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_symlink() or p.is_file()) if path.is_dir() else [path]
        for file in files:
            if any(part == "__pycache__" or part.endswith((".egg-info", ".so", "_cache")) for part in file.parts):
                continue  # building leaves them beside the sources
            state.update(str(file.relative_to(path.parent)).encode() + b"\0")
            if file.is_symlink():
                state.update(b"-> " + os.readlink(file).encode())
                continue
            state.update(oct(file.stat().st_mode & 0o111).encode())
            state.update(file.read_bytes())
    return state.hexdigest()


def say(message: str) -> None:
    """A progress line: what the testbed does now."""
    print(f"[testbed {time.strftime('%H:%M:%S')}] {message}", flush=True)


@contextlib.contextmanager
def locked(name: str, refusal: str = "") -> Iterator[None]:
    """Hold an exclusive lock of the cache, so that two runs never build the same thing.

    Waits while another run holds it; with a ``refusal`` raises TestbedError with that instead.
    """
    with open(root() / f".{name}.lock", "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if refusal:
                raise TestbedError(refusal) from error
            say(f"{name}: another run is building it, waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def disk_errors_explained(what: str) -> Iterator[None]:
    """Turn a full disk into one sentence with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TestbedError(f"{what}: {full_disk()}") from error
        raise


def full_disk() -> str:
    """The sentence for a full disk, with the remedy."""
    return f'no space left below "{root()}"; free about 12 GB, or set {ENVIRONMENT} to a folder on another disk'


def is_full() -> bool:
    """Whether the cache's disk is full: not every tool says what it ran into (tar does not)."""
    return shutil.disk_usage(root()).free < FULL_BELOW


def folder(name: str, inputs: dict[str, str]) -> Path:
    """The folder of a product with these inputs, whether it exists or not."""
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    return root() / f"{name}-{key}"


def is_built(name: str, inputs: dict[str, str]) -> bool:
    """Whether :func:`stage` would build nothing."""
    return folder(name, inputs).exists()


def _is_used(final: Path) -> bool:
    """Whether the product exists; prune() takes it for used now."""
    try:
        os.utime(final)
    except FileNotFoundError:
        return False
    return True


def stage(name: str, inputs: dict[str, str], build: Callable[[Path], None]) -> Path:
    """The folder of a product, built only if no folder with the same inputs exists.

    ``build`` gets an empty folder and fills it; the folder becomes visible under its key only
    when it is complete, so an interrupted run never leaves a half product.
    """
    final = folder(name, inputs)
    if _is_used(final):  # also while another run builds another version
        say(f"{name}: cached")
        return final
    with locked(name):
        if _is_used(final):
            say(f"{name}: cached")
            return final
        # A name of its own: what a killed run left behind may still be written to.
        for stale in root().glob(f".{name}.*.partial"):
            shutil.rmtree(stale, ignore_errors=True)
        partial = root() / f".{name}.{os.getpid()}.partial"
        say(f"{name}: building")
        started = time.monotonic()
        try:
            with disk_errors_explained(name):
                partial.mkdir()
                build(partial)
                (partial / "inputs.json").write_text(json.dumps(inputs, indent=1), encoding="utf-8")
                partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        say(f"{name}: built in {time.monotonic() - started:.0f} s")
        prune(name)
    return final


def prune(name: str) -> None:
    """Drop all but the last used versions of a product."""
    versions = [p for p in root().glob(f"{name}-*") if len(p.name) == len(name) + 17]
    versions.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for old in versions[KEPT_VERSIONS:]:
        shutil.rmtree(old, ignore_errors=True)


def clear() -> None:
    """Remove the whole cache folder."""
    shutil.rmtree(root())
