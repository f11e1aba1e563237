# SPDX-License-Identifier: MIT
"""What the layer's pages name must exist."""

import re

import pytest
from layer_files import LAYER, layer_files
from oe_trees import ROOT

PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
PAGES += sorted(ROOT.glob("*-patches/README.md"))
PAGES += [LAYER / "README.md", LAYER / "SECURITY.md", LAYER / ".oelint.cfg"]
NO_PATHS = {"backend/vinput", "kernel-patches/LINE"}
"""A folder of XenStore, and any kernel line's."""
FOLDERS = "backend|clients|docs|kas|kernel-patches|lib|meta-xen-dmabuf|testbed|tests|xen-patches"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@pages
def test_paths_exist(page):
    named = re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*[\w-])", page.read_text())
    missing = {name for name in named if not (ROOT / name).exists()} - NO_PATHS
    assert not missing


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pages
def test_variables_are_the_layers(page):
    sources = [
        *layer_files(".bb", ".inc", ".bbclass", ".conf"),
        *(ROOT / "lib").rglob("*.py"),
        *(ROOT / "testbed").glob("*.py"),
        *(ROOT / "backend/src").rglob("*.py"),
    ]
    text = "\n".join(path.read_text() for path in sources)
    named = set(re.findall(r"\bXEN_DMABUF_[A-Z_]+\b", page.read_text()))
    assert {name for name in named if name not in text} == set()


def test_every_variable_for_users_is_in_the_table():
    """A default that can be overridden (?=) is for users."""
    text = "\n".join(path.read_text() for path in layer_files(".bb", ".inc", ".bbclass"))
    settable = set(re.findall(r"^(XEN_DMABUF_[A-Z_]+) \?=", text, re.M))
    table = (ROOT / "docs/integrate.md").read_text()
    assert {name for name in settable if f"| `{name}` |" not in table} == set()


@pages
def test_kas_commands_name_kas_files(page):
    for files in re.findall(r"kas (?:build|shell|checkout) (kas/\S+?\.yml\S*)", page.read_text()):
        for name in files.split(":"):
            assert (ROOT / name.strip("`;,.")).is_file(), name


def test_packages_and_recipes_named_in_the_readme_exist():
    text = "\n".join(path.read_text() for path in layer_files(".bb"))
    names = {path.stem.split("_")[0] for path in layer_files(".bb")}
    for name in re.findall(r"^\| `([\w-]+)` \|", (LAYER / "README.md").read_text(), re.M):
        assert name in names or name in text


@pages
def test_oe_selftest_classes_exist(page):
    cases = (ROOT / "lib/oeqa/selftest/cases/xen_dmabuf.py").read_text()
    for name in re.findall(r"\bXenDmabuf\w+\b(?<!Test)", page.read_text()):  # the image tests' end so
        assert f"class {name}(" in cases
