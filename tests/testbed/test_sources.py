# SPDX-License-Identifier: MIT
"""What the testbed copies of pywayland, whichever version it is."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from testbed import sources
from testbed.errors import TestbedError


def of_packages(folder: Path) -> set[str]:
    """Protocols as pywayland 0.4.18 has them."""
    files = {f"{protocol}/{name}.py" for protocol in sources.PROTOCOLS for name in ("__init__", "interface")}
    for file in (*files, "another/__init__.py"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)
    return files


def of_modules(folder: Path) -> set[str]:
    """Protocols as pywayland 0.4.19 has them."""
    files = {f"{protocol}.py" for protocol in sources.PROTOCOLS}
    for file in (*files, "another.py"):
        (folder / file).write_text(file)
    return files


@pytest.mark.parametrize("layout", [of_packages, of_modules])
def test_protocols_are_copied_whatever_pywayland_makes_of_them(tmp_path, layout):
    """Beside those that are there already."""
    source, target = tmp_path / "wheel", tmp_path / "root"
    source.mkdir()
    (target / "wayland").mkdir(parents=True)
    wanted = layout(source)
    sources.copy_protocols(source, target)
    found = {str(path.relative_to(target)) for path in target.rglob("*.py")}
    assert found == wanted
    assert all((target / file).read_text() == file for file in found)


def test_protocols_of_the_installed_pywayland_are_copied(tmp_path):
    sources.copy_protocols(
        Path(str(importlib.metadata.distribution("pywayland").locate_file("pywayland/protocol"))), tmp_path
    )
    assert {path.name.removesuffix(".py") for path in tmp_path.iterdir()} == set(sources.PROTOCOLS)


def test_a_pywayland_without_a_protocol_is_named(tmp_path):
    with pytest.raises(TestbedError, match='has no protocol "linux_dmabuf_v1"'):
        sources.copy_protocols(tmp_path, tmp_path)
