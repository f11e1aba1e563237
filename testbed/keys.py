# SPDX-License-Identifier: MIT
"""SSH keys of the testbed: made once per cache, never committed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from . import cache, process


def folder() -> Path:
    """Folder with client, client.pub, host, host.pub and known_hosts."""
    target = cache.root() / "ssh"
    with cache.locked("ssh"):
        if not (target / "known_hosts").exists():
            target.mkdir(mode=0o700, exist_ok=True)
            for name in ("client", "host"):
                (target / name).unlink(missing_ok=True)
                process.run(
                    [
                        "ssh-keygen",
                        "-q",
                        "-t",
                        "ed25519",
                        "-N",
                        "",
                        "-C",
                        f"xen-dmabuf-testbed-{name}",
                        "-f",
                        str(target / name),
                    ],
                    what="ssh key",
                )
            public = (target / "host.pub").read_text(encoding="utf-8").split()
            (target / "known_hosts").write_text(f"* {public[0]} {public[1]}\n", encoding="utf-8")
    return target


def fingerprint() -> str:
    """Identifies the key pair in cache keys."""
    return hashlib.sha256((folder() / "client.pub").read_bytes() + (folder() / "host.pub").read_bytes()).hexdigest()
