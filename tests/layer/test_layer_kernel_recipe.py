# SPDX-License-Identifier: MIT
"""What bitbake's own parser makes of the file that kernel recipes require. Needs OE_TREES; a second."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from layer_files import LAYER
from oe_trees import CHECKED, ROOT

sys.path.insert(0, str(ROOT / "lib"))
from xen_dmabuf_layer import kernelseries  # noqa: E402

CONFIG = """
PN = "linux-mine"
DISTRO_FEATURES = "xen-dmabuf"
THISDIR = "${@os.path.dirname(d.getVar('FILE'))}"
"""
# The recipe, an append that requires our file, and an append of a later layer.
RECIPE = """
FILESEXTRAPATHS ?= "__default:"
LINUX_VERSION = "%s"
require recipes-kernel/linux/linux-xen-dmabuf.inc
%s
"""
VARIABLES = ("SRC_URI", "FILESEXTRAPATHS", "KERNEL_FEATURES", "__depends")


@pytest.fixture(params=CHECKED)
def release(request, trees):
    """The folder of a release's trees."""
    folder = trees / request.param
    if not (folder / "bitbake/lib").is_dir():
        pytest.skip(f"OE_TREES has no {request.param}/bitbake")
    return folder


@pytest.fixture
def parse(release, tmp_path):
    """Return a function that parses a made-up kernel recipe and returns VARIABLES."""
    bitbake = release / "bitbake/lib"

    def parse(version, later=""):
        (tmp_path / "kernel.conf").write_text(CONFIG)
        (tmp_path / "kernel.bb").write_text(RECIPE % (version, later))
        program = Path(__file__).with_name("parse_kernel.py")
        command = [sys.executable, program, bitbake, LAYER, tmp_path, *VARIABLES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return parse


def found(recipe):
    """Return the patches of SRC_URI as bitbake finds them: the first in the search path."""
    names = [u.removeprefix("file://") for u in recipe["SRC_URI"].split() if u.endswith(".patch")]
    folders = recipe["FILESEXTRAPATHS"].split(":")
    files = [[f"{f}/{n}" for f in folders if os.path.isfile(f"{f}/{n}")] for n in names]
    return [hits[0] if hits else f"{name} is nowhere" for name, hits in zip(names, files, strict=True)]


@pytest.mark.parametrize("line", kernelseries.lines(ROOT))
def test_a_kernel_gets_the_patches_of_its_line(parse, line):
    assert found(parse(f"{line}.9")) == kernelseries.patches(str(ROOT), line, guest=line)


def test_a_version_from_a_later_append_counts(parse):
    """Names and folders of different lines once gave a kernel another line's files."""
    recipe = parse("6.18.9", 'LINUX_VERSION = "6.12.4"')
    assert found(recipe) == kernelseries.patches(str(ROOT), "6.12", guest="6.12")


def test_a_guest_may_have_the_unpatched_frontends(parse):
    recipe = parse("6.12.4", 'XEN_DMABUF_GUEST_SERIES = ""')
    assert found(recipe) == kernelseries.patches(str(ROOT), "6.12")
    assert "kernel-patches/guest" not in recipe["FILESEXTRAPATHS"]


@pytest.mark.parametrize(("value", "extra"), [("1", True), ("0", False), ("", False)])
def test_extra_patches_are_applied_when_asked_for(parse, value, extra):
    recipe = parse("6.12.4", f'XEN_DMABUF_KERNEL_EXTRA_PATCHES = "{value}"')
    assert found(recipe) == kernelseries.patches(str(ROOT), "6.12", extra, "6.12")
    assert ("/extra/" in recipe["FILESEXTRAPATHS"]) == extra


def test_a_new_file_in_a_folder_of_patches_is_noticed(parse):
    """bitbake parses a recipe again when one of these has changed."""
    watched = str(parse("6.12.4")["__depends"])
    for folder in kernelseries.folders(str(ROOT), "6.12", guest="6.12"):
        assert folder in watched


@pytest.mark.parametrize("cache", ["", " git://example.invalid/yocto-kernel-cache;type=kmeta"])
def test_the_fragment_of_meta_virtualization_is_left_out(parse, release, cache):
    """With the kernel cache and, as linux-imx, without it: the releases spell the fragment's path differently."""
    append = release / "meta-virtualization/recipes-kernel/linux/linux-yocto_virtualization.inc"
    if not append.is_file():
        pytest.skip(f"OE_TREES has no {append.relative_to(release)}")
    features = parse("6.12.4", f'SRC_URI += "{cache}"\nDISTRO_FEATURES += "xen k8s"\nrequire {append}')[
        "KERNEL_FEATURES"
    ]
    assert "kubernetes.scc" in features, "another fragment that is added by the same function"
    assert "xen.scc" not in features
