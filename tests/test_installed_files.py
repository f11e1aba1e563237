# SPDX-License-Identifier: MIT
"""backend/data/Makefile is the one list of what is installed: it is complete, and the recipe and the testbed use it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from testbed import layout

DATA = layout.BACKEND / "data"
RECIPE = layout.LAYER / "recipes-extended/xen-dmabuf-backend/xen-dmabuf-backend_0.1.0.bb"
# bitbake's variables on a target with a merged /usr
VARIABLES = {
    "S": str(layout.BACKEND),
    "sysconfdir": "/etc",
    "datadir": "/usr/share",
    "mandir": "/usr/share/man",
    "systemd_system_unitdir": "/usr/lib/systemd/system",
    "nonarch_libdir": "/usr/lib",
    "nonarch_base_libdir": "/usr/lib",
}


def installed(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Each file below the folder: its path there, its mode, what it holds."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mode & 0o7777, path.read_bytes()) for path in files}


def install(folder: Path, *arguments: str) -> dict[str, tuple[int, bytes]]:
    subprocess.run(["make", "-C", DATA, "install", f"DESTDIR={folder}", *arguments], check=True, capture_output=True)
    return installed(folder)


def test_every_file_is_installed_once_and_readable(tmp_path):
    found = install(tmp_path)
    sources = sorted(path.read_bytes() for path in DATA.rglob("*") if path.is_file() and path.name != "Makefile")
    assert sorted(content for _mode, content in found.values()) == sources
    assert {mode for mode, _content in found.values()} == {0o644}


def test_recipe_installs_by_that_list(tmp_path):
    """The recipe's own call, with the folders of an image, installs what a plain call does."""
    body = re.search(r"(?ms)^do_install:append\(\) \{\n(.*?)^\}", RECIPE.read_text())[1]
    assert "install -Dm" not in body, "the recipe has a list of its own"
    call = re.search(r"(?m)^ +oe_runmake ((?:.*\\\n)*.*)$", body)[1].replace("\\\n", " ")
    for name, value in {**VARIABLES, "D": str(tmp_path / "image")}.items():
        call = call.replace(f"${{{name}}}", value)
    assert "${" not in call
    subprocess.run(["make", *call.split()], check=True, capture_output=True)
    assert installed(tmp_path / "image") == install(tmp_path / "plain")


def test_recipe_can_move_every_folder(tmp_path):
    """A folder that the Makefile alone knows would stay Debian's in an image with another layout."""
    names = re.findall(r"(?m)^(\w+) \?=", (DATA / "Makefile").read_text())
    found = install(tmp_path, *(f"{name}=/moved" for name in names))
    assert {path.split("/")[0] for path in found} == {"moved"}
    recipe = set(re.findall(r"\b(\w+)=\$\{", RECIPE.read_text()))
    assert set(names) - recipe == {"libdir"}, "libdir is only the start of those that the recipe sets"
