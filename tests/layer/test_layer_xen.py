# SPDX-License-Identifier: MIT
"""Which patches a recipe of Xen gets."""

import itertools
import re
import sys

import pytest
from layer_files import LAYER
from oe_trees import ROOT

sys.path.insert(0, str(ROOT / "lib"))
from xen_dmabuf_layer import xen  # noqa: E402

RECIPE = LAYER / "recipes-extended/xen"
# PV of all recipes "xen" in meta-virtualization, wrynose's and then scarthgap's.
VERSIONS = (
    "4.19.0+stable",
    "4.20.0+stable",
    "4.21.0+stable",
    "4.21-dev+git",
    "4.17+stable",
    "4.18+stable",
    "4.19+git",
)


@pytest.fixture
def root(tmp_path):
    for folder in ("4.17", "4.18-4.22"):
        path = tmp_path / "xen-patches" / folder
        path.mkdir(parents=True)
        for name in ("0002-b.patch", "0001-a.patch", "notes.md"):
            (path / name).touch()
    (tmp_path / "xen-patches/README.md").touch()
    (tmp_path / "xen-patches/4.3x").mkdir()
    return str(tmp_path)


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("4.18+stable", "4.18"),
        ("4.20+git", "4.20"),
        ("4.18.5", "4.18"),
        ("4.21-dev+git", "4.21"),
        ("4.20.4+63-g7abfd2bce2", "4.20"),
        ("git", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_release_is_the_version_s_beginning(version, release):
    assert xen.release(version) == release


@pytest.mark.parametrize(
    ("version", "folder"),
    [("4.17.2", "4.17"), ("4.18+stable", "4.18-4.22"), ("4.20+git", "4.18-4.22"), ("4.22.1", "4.18-4.22")],
)
def test_patches_are_those_of_the_folder_in_the_order_to_apply(root, version, folder):
    names = [f"xen-patches/{folder}/{name}" for name in ("0001-a.patch", "0002-b.patch")]
    assert xen.patches(root, version) == names
    assert xen.problem(root, "xen", version) is None


@pytest.mark.parametrize("version", ["4.2.5", "4.16", "4.23-unstable", "5.17", "4.170", "git"])
def test_an_uncovered_version_has_none_and_is_told_what_is_covered(root, version):
    assert xen.patches(root, version) == []
    problem = xen.problem(root, "xen", version)
    assert f'"xen" is version "{version}"' in problem and "covers 4.17, 4.18-4.22" in problem
    assert "PREFERRED_VERSION_xen" in problem


def test_a_layer_copied_alone_says_so(tmp_path):
    assert "clone all of it" in xen.problem(str(tmp_path), "xen", "4.20")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recipe_of_both_releases_is_covered(version):
    assert xen.patches(str(ROOT), version)


def test_no_two_folders_cover_the_same_release():
    ranges = sorted(xen._covered(str(ROOT)).values())
    assert ranges
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))


def test_every_folder_of_patches_is_used():
    """A folder with a name that nobody reads would be left out without a word."""
    folders = {path.parent.name for path in (ROOT / "xen-patches").glob("*/*.patch")}
    assert folders == set(xen._covered(str(ROOT)))


def test_the_append_does_nothing_without_the_feature():
    (line,) = [x for x in (RECIPE / "xen_%.bbappend").read_text().splitlines() if x]
    assert re.fullmatch(
        r"require \$\{@bb\.utils\.contains\('DISTRO_FEATURES', 'xen-dmabuf', '([\w-]+\.inc)', '', d\)\}", line
    )
    assert (RECIPE / re.search(r"[\w-]+\.inc", line)[0]).is_file()


class TestPatch:
    PATCHES = sorted((ROOT / "xen-patches").glob("*/*.patch"))

    @pytest.mark.parametrize("patch", PATCHES, ids=lambda p: f"{p.parent.name}/{p.name}")
    def test_its_description_is_fit_for_the_list(self, patch):
        header, _, changes = patch.read_text().partition("\n---\n")
        assert re.search(r"^From: \S", header, re.M) and re.search(r"^Subject: \[PATCH\] xen/arm: \S", header, re.M)
        assert re.search(r"^Upstream-Status: (Pending|Submitted|Denied|Inappropriate|Backport)\b", header, re.M)
        # Whoever posts it signs it.
        assert "Signed-off-by" not in header
        assert "\ndiff --git " in changes
        added = [line[1:] for line in changes.splitlines() if line.startswith("+") and not line.startswith("+++")]
        assert not [line for line in added if "\t" in line or line != line.rstrip() or len(line) > 79]
