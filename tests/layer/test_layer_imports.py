# SPDX-License-Identifier: MIT
"""OpenEmbedded splits Python's standard library into packages: is each there that is imported? Needs OE_TREES; seconds.

xen-tools-python happens to bring nearly all of them, so that a missing name shows on no image of ours.
"""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from layer_files import LAYER, assignment
from oe_trees import CHECKED, ROOT

BACKEND = "xen-dmabuf-backend"


def recipe(name):
    return next(LAYER.rglob(f"{name}_*.bb")).read_text()


def depends(name, *packages):
    """Return the words of RDEPENDS of some packages of a recipe, "" for its own."""
    text = recipe(name)
    values = [assignment(text, f"RDEPENDS:${{PN}}{package}") or "" for package in packages]
    return set(" ".join(values).split())


def imported_modules(paths):
    """Return the standard library's modules that Python files import."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module)
    return {name for name in found if name.split(".")[0] in sys.stdlib_module_names}


def package_of(module, manifest):
    """Return the OpenEmbedded package of a module, None for a built-in one."""
    path = module.replace(".", "/")
    wanted = {path, f"{path}.py", f"lib-dynload/{path}.*.so", f"lib-dynload/_{path}.*.so"}
    for package, content in manifest.items():
        for file in content.get("files", []):
            if file.split("${PYTHON_MAJMIN}/")[-1].rstrip("/") in wanted:
                return package
    return package_of(module.split(".")[0], manifest) if "." in module else None


@pytest.fixture(params=CHECKED)
def missing(request, trees):
    """Return a function that says which of a release's packages files need and a list lacks."""
    python = trees / request.param / "openembedded-core/meta/recipes-devtools/python/python3"
    if not python.is_dir():
        pytest.skip(f"OE_TREES has no {request.param}")
    text = (python / "python3-manifest.json").read_text()
    manifest = json.loads(re.sub(r"(?m)^#.*$", "", text))

    def missing(paths, listed):
        packages = {package_of(module, manifest) for module in imported_modules(paths)}
        return {f"python3-{package}" for package in packages - {None, "core"}} - listed

    return missing


def test_the_backend(missing):
    paths = (ROOT / "backend/src/xen_dmabuf").rglob("*.py")
    assert not missing(paths, depends(BACKEND, "", "-modules"))


def test_pywayland(missing):
    paths = Path(pytest.importorskip("pywayland").__file__).parent.rglob("*.py")
    assert not missing(paths, depends("python3-pywayland", ""))


def test_the_hostile_frontends(missing):
    names = assignment(recipe(BACKEND), "FILES:${PN}-hostile").split()
    paths = [path for name in names for path in (ROOT / "backend/tests").glob(Path(name).name)]
    assert not missing(paths, depends(BACKEND, "-modules", "-hostile"))


def test_the_unit_tests_on_the_target(missing):
    paths = (ROOT / "backend/tests").rglob("*.py")
    # pytest's own package depends on what it imports; these are ours
    assert not missing(paths, depends(BACKEND, "", "-modules", "-hostile", "-ptest"))


def test_what_the_image_tests_run_in_dom0(missing):
    settings = yaml.safe_load((ROOT / "kas/testimage.yml").read_text())["local_conf_header"]["testimage"]
    installed = re.search(r'IMAGE_INSTALL:append:pn-xen-dmabuf-image-dom0 = "(.*)"', settings)[1].split()
    paths = (ROOT / "lib/oeqa/files").glob("*.py")
    assert not missing(paths, depends(BACKEND, "", "-modules", "-hostile") | set(installed))
