# SPDX-License-Identifier: MIT
"""Fixtures; what they give is in fakes.py."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator

import hypothesis
import pytest
from fakes import FakeXen, Weston
from fuzz.background import SEEDS, Fuzzing
from waiting import run_as_a_worker

from xen_dmabuf.pump import loop

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")  # how long a call takes says how busy the host is


def _weston(tmp_path_factory, options: tuple[str, ...]) -> Iterator[Weston]:
    if not shutil.which("weston"):
        pytest.skip("LOUD: package weston is not installed; the display is NOT tested")
    compositor = Weston(tmp_path_factory.mktemp("weston"), options)
    compositor.start()
    yield compositor
    compositor.stop()


@pytest.fixture
def weston(tmp_path_factory) -> Iterator[Weston]:
    yield from _weston(tmp_path_factory, ())


@pytest.fixture
def kiosk(tmp_path_factory) -> Iterator[Weston]:
    """Weston's kiosk shell: every window is fullscreen on 640x480."""
    yield from _weston(tmp_path_factory, ("--shell=kiosk-shell.so",))


@pytest.fixture
def blind(tmp_path_factory) -> Iterator[Weston]:
    """A Weston without outputs: it draws nothing, so no frame event ever comes."""
    yield from _weston(tmp_path_factory, ("--no-outputs",))


@pytest.fixture(params=["python", "compiled"])
def xen(request, monkeypatch) -> Iterator[FakeXen]:
    """With each of the two that serve flips."""
    fake = FakeXen()
    fake.install(monkeypatch)
    if request.param == "compiled":
        if loop.lib is None:
            pytest.skip("LOUD: xen_dmabuf.pump._pump is not built; flips in C are NOT tested")
        fake.install_pump(monkeypatch)
    else:
        monkeypatch.setattr(loop, "lib", None)
    monkeypatch.setattr(asyncio, "run", run_as_a_worker)
    yield fake
    fake.close()


@pytest.fixture
def nothing_raised(capfd):
    """pywayland prints an exception in a callback, and goes on."""
    yield
    assert "Traceback" not in capfd.readouterr().err


_RUNNING = pytest.StashKey[dict[str, Fuzzing]]()


def pytest_configure(config):
    config.addinivalue_line("markers", "beside: runs in the background of the testbed's tests, and is asked last")


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    """The testbed's machine leaves processors idle: what may run beside it begins before all tests."""
    running = session.config.stash.setdefault(_RUNNING, {})
    marked = [item for item in session.items if item.get_closest_marker("beside")]
    if any(item.get_closest_marker("testbed") for item in session.items) and not session.config.option.collectonly:
        session.items[:] = [item for item in session.items if item not in marked] + marked
        running |= {item.callspec.params["name"]: Fuzzing(SEEDS[item.callspec.params["name"]]) for item in marked}
    try:
        return (yield)
    finally:
        while running:
            running.popitem()[1].kill()


@pytest.fixture
def beside(request) -> Iterator[Callable[[str], Fuzzing]]:
    """What was begun by that name, or begins now."""
    running = request.config.stash[_RUNNING]
    used: list[Fuzzing] = []

    def get(name: str) -> Fuzzing:
        used.append(running.pop(name, None) or Fuzzing(SEEDS[name]))
        return used[0]

    yield get
    for fuzzing in used:
        fuzzing.kill()
