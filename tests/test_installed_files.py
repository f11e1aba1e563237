# SPDX-License-Identifier: MIT
"""backend/data/Makefile is the one list of what is installed: it is complete, and the recipe and the testbed use it.

Weston's configuration is put in place by its recipe and by the testbed; both have to mean the same paths.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from testbed import layout, sources

DATA = layout.BACKEND / "data"
RECIPE = layout.LAYER / "recipes-extended/xen-dmabuf-backend/xen-dmabuf-backend_0.1.0.bb"
WESTON = layout.LAYER / "recipes-graphics/weston-init/xen-dmabuf-weston_1.0.bb"
GUEST = layout.LAYER / "recipes-extended/xen-dmabuf-guest/xen-dmabuf-guest_1.0.bb"
UNITS = "usr/lib/systemd/system"
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


@pytest.fixture(scope="module")
def weston(tmp_path_factory):
    """What the recipe of Weston's configuration installs, by its own commands."""
    folder = tmp_path_factory.mktemp("weston")
    script = re.search(r"(?ms)^do_install\(\) \{\n(.*?)^\}", WESTON.read_text())[1]
    for name, value in {**VARIABLES, "S": str(layout.WESTON), "D": str(folder)}.items():
        script = script.replace(f"${{{name}}}", value)
    subprocess.run(["sh", "-euc", script], check=True)
    return installed(folder)


def test_testbed_puts_all_of_westons_files_where_the_recipe_does(weston, tmp_path):
    """Each in its guest; the kiosk's lie aside."""
    sides = {"dom0": sources.weston_of_dom0, "domu": sources.weston_of_domu, "kiosk": sources.kiosk}
    found = {}
    for side, put in sides.items():
        put(tmp_path / side)
        found[side] = {path: content for path, (_mode, content) in installed(tmp_path / side).items()}
    assert found["dom0"] | found["domu"] | found["kiosk"] == {
        path: content for path, (_mode, content) in weston.items()
    }
    assert [len(found[side]) for side in sides] == [5, 5, 3]
    both = found["dom0"].keys() & found["domu"].keys()
    assert both == {f"{UNITS}/weston.{unit}.d/xen-dmabuf-restart.conf" for unit in ("service", "socket")}


def test_testbeds_bridge_is_where_the_recipe_puts_it(tmp_path):
    lines = re.findall(r"install -Dm 0644 \$\{S\}/(\S+) \$\{D\}\$\{systemd_unitdir\}/(network/\S+)", GUEST.read_text())
    assert lines
    sources.network(tmp_path)
    assert {path: content for path, (_mode, content) in installed(tmp_path).items()} == {
        f"usr/lib/systemd/{path}": (layout.GUEST / name).read_bytes() for name, path in lines
    }


@pytest.mark.parametrize("unit", ["weston.service", "weston.socket"])
def test_testbeds_weston_comes_back_by_the_layers_drop_ins_alone(unit):
    """What oe-core's units lack must not be in the testbed's own: the claim would be made for what no image has."""
    text = (layout.WESTON_INIT / UNITS / unit).read_text()
    assert not re.search(r"(?m)^(Restart\w*|StartLimit\w*|TriggerLimit\w*)=", text)


def test_input_of_each_connector_is_mapped_to_its_output():
    """xen-kbdfront's phys is "xenbus/" and the node's name; Weston names drm_xen_front's connectors Virtual-1 and on.
    Mainline's frontend has four."""
    rules = (layout.WESTON / "60-xen-dmabuf-input.rules").read_text()
    mapped = dict(re.findall(r'^ATTRS\{phys\}=="([^"]*)", ENV\{WL_OUTPUT\}="([^"]*)"$', rules, re.M))
    assert mapped == {f"xenbus/device/vkbd/{number}": f"Virtual-{number + 1}" for number in range(4)}
    assert rules.count("WL_OUTPUT") == len(mapped), "a line of another form"
