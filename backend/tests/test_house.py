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


# -- the times that a frontend waits

# Where the worker's code waits, and for how long. Those that no answer to a frontend hangs on have a reason
# beside them; all others are added up below.
WAITS = {
    "worker/connector.py": {"0": "a turn of the loop", "delay": "WITHOUT_PICTURE"},
    "worker/flips.py": {"limits.left(limits.FLIP_TURN, by, self._loop.time())": "FLIP_TURN"},
    "worker/framebuffers.py": {"limits.left(limits.ATTACH, by, loop.time())": "ATTACH"},
    "worker/claim.py": {
        "limits.SETUP": "a window without its id is one that isn't drawn: HIDDEN",
        "pause": "the same",
    },
    "worker/compositor.py": {
        "limits.SETUP": "nobody is answered by a connection",
        "limits.IMPORT": "ATTACH is waited for, and what comes later is shown later",
    },
    "worker/keeper.py": {"pause": "for the next compositor; meanwhile flips are answered without"},
    "worker/picture.py": {"deadline": "HIDDEN, or 1/hidden_flips_per_second"},
    "worker/presentation.py": {"seconds": "PRESENTED"},
    "worker/window.py": {"seconds": "a window that isn't drawn is one that is hidden"},
    "worker/ports.py": {"delay": "STORM"},
    "worker/refresher.py": {"self._interval": "a guest that doesn't ask"},
    "worker/releases.py": {"end - loop.time()": "DESTROY, REPLACE or DISCONNECT", "self._pause": "LOOK_LAST"},
    "worker/worker.py": {
        "_LIVED_LONG": "counts attempts",
        "seconds": "GPU_CHOICE",
    },
}


def waits_of(tree: ast.AST) -> set[str]:
    """What is passed for a time to whatever waits or calls later."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in ("timeout", "timeout_at", "sleep", "call_later", "call_at") and node.args:
            found.add(ast.unparse(node.args[0]))
        found |= {ast.unparse(word.value) for word in node.keywords if word.arg == "timeout"}
        assert node.func.attr != "wait_for", "asyncio.timeout() cancels nothing that has ended"
    return found


def test_every_wait_of_a_worker_is_known():
    """A new one is either on the page, and in the sums below, or keeps no frontend waiting."""
    found = {}
    for path in sorted((ROOT / "worker").rglob("*.py")):
        waits = waits_of(ast.parse(path.read_text()))
        if waits:
            found[str(path.relative_to(ROOT))] = waits
    assert found == {name: set(waits) for name, waits in WAITS.items()}


MARGIN = 0.1
"""What no timer of ours counts: the loop's turns, write-back of caches, the frontend's own scheduling."""
SLOWEST_HIDDEN = 1 / 1
"""hidden_flips_per_second is at least 1."""
ON_TIME = [limits.STORM]
ANSWERS = {
    "plain": ON_TIME,
    "create": [*ON_TIME, limits.GPU_CHOICE],
    "attach": [*ON_TIME, limits.ATTACH],  # GPU, replaced strategies and imports are waited for together
    "destroy": [*ON_TIME, limits.PRESENTED, max(limits.DESTROY, limits.LOOK_LAST)],
    "flip": [*ON_TIME, limits.FLIP_TURN],
    "after a take-over": [limits.TAKE_OVER, limits.REPLAY],  # whatever was in the ring
}
EVENTS = {  # the frontend's clock began with the request
    "shown or hidden": [*ANSWERS["flip"], limits.HIDDEN],
    "without a picture": [*ANSWERS["flip"], SLOWEST_HIDDEN],
    "after a take-over": [limits.TAKE_OVER, limits.REPLAY],
}


@pytest.mark.parametrize("path", ANSWERS)
def test_no_way_to_an_answer_is_longer_than_its_frontend_waits(path):
    assert sum(ANSWERS[path]) + MARGIN < limits.REQUEST


@pytest.mark.parametrize("path", EVENTS)
def test_no_way_to_an_event_is_longer_than_its_frontend_waits(path):
    assert sum(EVENTS[path]) + MARGIN < limits.EVENT


def test_what_is_waited_for_together_fits_in():
    assert limits.GPU_CHOICE < limits.ATTACH and limits.REPLACE < limits.ATTACH
    assert SLOWEST_HIDDEN <= limits.HIDDEN
    assert limits.PRESENTED + limits.DISCONNECT + 2 < limits.RELEASE <= 12, (
        "one that keeps its deadline isn't ended, one that hangs is"
    )


def test_a_wait_is_cut_by_its_deadline_only():
    assert limits.left(2, limits.NO_DEADLINE, 100) == 2
    assert limits.left(2, 100.5, 100) == 0.5
    assert limits.left(2, 99, 100) == 0
