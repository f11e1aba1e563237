# SPDX-License-Identifier: MIT
import json
import re
from pathlib import Path

import jsonschema
import kas
import pytest
import yaml
from layer_files import LAYER
from oe_trees import MACHINES, NEXT, RELEASES, ROOT, compose, kas_files

from testbed.qemu import TEST_SCREEN

FILES = sorted((ROOT / "kas").glob("*.yml"))
AXES = ("kas/testimage.yml", "kas/debug.yml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_is_valid_by_kas_own_schema(path):
    schema = json.loads((Path(kas.__file__).parent / "schema-kas.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("machine", MACHINES)
def test_machine_and_release_compose(machine, release, tmp_path):
    config = compose(kas_files(machine, release), tmp_path)
    assert config["machine"] == machine
    assert config["defaults"]["repos"]["branch"] == release
    assert "xen-dmabuf" in config["local_conf_header"]["features"]


@pytest.mark.parametrize("axis", AXES)
def test_axis_composes_with_every_machine(axis, tmp_path):
    for machine in MACHINES:
        config = compose([*kas_files(machine, "scarthgap"), axis], tmp_path)
        assert "allow-root-login" in config["local_conf_header"]["debug"]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("machine", MACHINES)
def test_every_fetched_repository_is_pinned(machine, release, tmp_path):
    config = compose(kas_files(machine, release), tmp_path)
    locked = yaml.safe_load((ROOT / f"kas/{release}.lock.yml").read_text())["overrides"]["repos"]
    for name, repo in config["repos"].items():
        if "url" in (repo or {}):
            assert re.fullmatch(r"[0-9a-f]{40}", locked[name]["commit"])
            assert config["overrides"]["repos"][name] == locked[name], "another lock wins"


@pytest.mark.parametrize("machine", MACHINES)
def test_next_release_composes_from_masters_at_pinned_commits(machine, tmp_path):
    config = compose(kas_files(machine, NEXT), tmp_path)
    assert config["defaults"]["repos"]["branch"] == "master"
    assert config["repos"]["bitbake"]["branch"] == "master"
    locked = yaml.safe_load((ROOT / f"kas/{NEXT}.lock.yml").read_text())["overrides"]["repos"]
    fetched = {name for name, repo in config["repos"].items() if "url" in (repo or {})}
    assert {name: config["overrides"]["repos"][name] for name in fetched} == {name: locked[name] for name in fetched}


def test_testimage_has_the_testbeds_screen_and_a_second_one_in_qemu(tmp_path):
    """The second for xen_dmabuf_outputs; nothing else of the device is changed, and no other image's."""
    config = compose([*kas_files("qemuarm64", "wrynose"), "kas/testimage.yml"], tmp_path)
    (line,) = [one for one in config["local_conf_header"]["testimage"].splitlines() if one.startswith("QB_GRAPHICS")]
    device = "-device virtio-gpu-pci,max_outputs=2,xres={},yres={}".format(*TEST_SCREEN)
    assert line == f'QB_GRAPHICS:pn-xen-dmabuf-image-dom0:qemuarm64 = "{device}"'


def test_nobody_accepts_the_eula_for_the_user(tmp_path):
    config = compose(kas_files("imx8qm-mek", "wrynose"), tmp_path)
    assert config["env"]["ACCEPT_FSL_EULA"] is None


def test_the_boards_display_can_be_chosen_on_the_command_line(tmp_path):
    """kas hands on what is in the environment; without a value the layer's default holds."""
    env = compose(kas_files("imx8qm-mek", "wrynose"), tmp_path)["env"]
    assert env["XEN_DMABUF_IMX8QM_DISPLAY"] is None


def test_releases_are_the_ones_the_layer_is_compatible_with():
    layer = (LAYER / "conf/layer.conf").read_text()
    compatible = re.search(r'LAYERSERIES_COMPAT_xen-dmabuf = "(.*)"', layer)[1]
    assert set(compatible.split()) == {*RELEASES, NEXT}


@pytest.fixture
def menu(monkeypatch):
    kconfiglib = pytest.importorskip("kconfiglib")
    monkeypatch.chdir(ROOT)
    return kconfiglib.Kconfig("Kconfig")


def includes(menu):
    """What `kas menu` would put into its configuration."""
    symbols = [s for s in menu.unique_defined_syms if s.name.startswith("KAS_INCLUDE_")]
    return [s.str_value for s in symbols if s.str_value]


def test_menu_default_composes(menu, tmp_path):
    assert compose(includes(menu), tmp_path)["machine"] == "qemuarm64"


@pytest.mark.parametrize("release", ["RELEASE_WRYNOSE", "RELEASE_SCARTHGAP"])
@pytest.mark.parametrize("machine", ["MACHINE_QEMUARM64", "MACHINE_IMX8QM_MEK"])
def test_every_choice_of_the_menu_composes(menu, machine, release, tmp_path):
    for symbol in (machine, release, "TESTIMAGE"):
        assert menu.syms[symbol].set_value(2)
    config = compose(includes(menu), tmp_path)
    assert config["machine"] == machine.removeprefix("MACHINE_").lower().replace("_", "-")
    assert "testimage" in config["local_conf_header"]
