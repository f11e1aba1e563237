# SPDX-License-Identifier: MIT
"""The walls of the house: which folder may import which. docs/architecture.md draws them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import xen_dmabuf
from xen_dmabuf import limits

ROOT = Path(xen_dmabuf.__file__).parent
ROOMS = ("displif", "kbdif", "linux", "pump", "xen", "link", "supervisor", "worker", "cli")
# what each room may know of the others; the modules beside the rooms are everybody's
MAY_IMPORT = {
    "displif": {"linux"},  # the memory barrier of the rings
    "kbdif": set(),
    "linux": set(),
    "pump": set(),
    "xen": {"linux"},
    "link": {"displif", "kbdif"},
    "supervisor": {"displif", "kbdif", "link"},
    "worker": {"displif", "kbdif", "link", "linux", "pump", "xen"},
    "cli": {"displif", "kbdif", "linux", "link", "supervisor", "worker", "xen"},
    "": {"linux"},  # the event page of both protocols: the same barrier
}
# the supervisor opens no device and draws nothing, whatever runs as root imports none of these
FORBIDDEN = {"supervisor": ("ctypes", "pywayland", "mmap"), "link": ("asyncio",)}
FORBIDDEN |= dict.fromkeys(("displif", "kbdif"), ("asyncio", "pywayland"))
FORBIDDEN |= {"pump": ("ctypes", "pywayland")}  # C gets pywayland's functions from the worker


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


def imported(path: Path) -> set[str]:
    """The dotted names that a module imports, those of this package relative to it."""
    package = path.relative_to(ROOT).parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*(("xen_dmabuf", *base) if node.level else ()), *([node.module] if node.module else [])])
            names |= {start} | {f"{start}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_walls(path):
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room}/ is no room of the house"
    known = MAY_IMPORT[room] | {room}
    for name in imported(path):
        first, _dot, rest = name.partition(".")
        other = rest.partition(".")[0]
        assert first != "xen_dmabuf" or other not in ROOMS or other in known, f"{room}/ imports {name}"
        assert first not in FORBIDDEN.get(room, ()), f"{room}/ imports {name}"


def test_a_wall_that_is_broken_is_seen():
    """The test above can fail: the command imports both processes, which nobody else may."""
    names = imported(ROOT / "cli/check.py")
    assert any(name.startswith("xen_dmabuf.worker") for name in names)
    assert any(name.startswith("xen_dmabuf.supervisor") for name in names)


def test_no_request_waits_longer_than_its_frontend():
    """The longest ways through a request, added up."""
    assert limits.GPU_CHOICE < limits.REQUEST
    assert limits.DESTROY < limits.REQUEST
    assert limits.ATTACH < limits.REQUEST
    assert limits.FLIP_TURN < limits.REQUEST
    assert limits.HIDDEN < limits.EVENT
    assert limits.DISCONNECT < limits.RELEASE, "a worker that keeps its deadline isn't ended"
