# SPDX-License-Identifier: MIT
"""What the testbed does to an unpacked Debian, tried on a root without Debian."""

from __future__ import annotations

import sys
from pathlib import Path

from testbed import debianroot


def compiled(folder: Path) -> set[str]:
    """The modules with byte code beside them."""
    return {path.name.split(".")[0] for path in folder.rglob("__pycache__/*.pyc")}


def test_all_is_compiled_wherever_the_cache_is(tmp_path, monkeypatch):
    """The default folder is ".cache/xen-dmabuf-testbed": all in it was taken for tests, and nothing was compiled."""
    root = tmp_path / "test" / "root"
    for name in ("os.py", "json/decoder.py"):
        file = root / "usr/lib/python3" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    monkeypatch.setattr(debianroot, "emulated", lambda _root, _program: [sys.executable])
    debianroot.byte_compile(root, root / "usr/lib/python3")
    assert compiled(root) == {"os", "decoder"}
