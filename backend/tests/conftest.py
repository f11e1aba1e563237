# SPDX-License-Identifier: MIT
"""Fixtures; what they give is in fakes.py."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from fakes import FakeXen, Weston


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


@pytest.fixture
def xen(monkeypatch) -> Iterator[FakeXen]:
    fake = FakeXen()
    fake.install(monkeypatch)
    yield fake
    fake.close()
