# SPDX-License-Identifier: MIT
"""The workflow files of GitHub and GitLab, judged by their schemas and against what they name. Nobody ran them here."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from oe_trees import RELEASES, ROOT, compose

GITHUB = sorted((ROOT / ".github/workflows").glob("*.yml"))
GITLAB = ROOT / ".gitlab-ci.yml"
IMAGE = ROOT / ".ci/image"

files = pytest.mark.parametrize("path", [*GITHUB, GITLAB], ids=lambda path: path.name)


def text_of_steps(node):
    """Every string in the file: images, commands, actions, arguments."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        return [text for item in node for text in text_of_steps(item)]
    return [str(node)]


def images(node):
    """What the jobs run in."""
    if isinstance(node, list):
        return [name for item in node for name in images(item)]
    if not isinstance(node, dict):
        return []
    found = [node[key] for key in ("container", "image") if isinstance(node.get(key), str)]
    return found + [name for item in node.values() for name in images(item)]


@files
def test_schema(path):
    """The schemas come with check-jsonschema; no network is asked."""
    which = ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"] if path == GITLAB else ["vendor.github-workflows"]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *which, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("actionlint"), reason="actionlint is not here; PyPI has no wheel of it")
def test_actionlint():
    done = subprocess.run(["actionlint", *GITHUB], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path):
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@files
def test_jobs_run_in_debian_of_any_registry(path):
    names = images(yaml.safe_load(path.read_text()))
    assert names
    assert all(re.fullmatch(r"debian:(bookworm|trixie|\$\{\{ matrix\.debian \}\}|\$DEBIAN)", name) for name in names), (
        names
    )


@files
def test_scripts_and_targets_exist(path):
    words = "\n".join(text_of_steps(yaml.safe_load(path.read_text())))
    for script in re.findall(r"(?<!\S)(\.ci/\w+)", words):
        assert os.access(ROOT / script, os.X_OK), script
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?m)^make (\w+)", words):
        assert re.search(rf"(?m)^{target}:", makefile), target


def test_both_build_every_release():
    jobs = yaml.safe_load((ROOT / ".github/workflows/images.yml").read_text())["jobs"]
    assert jobs["image"]["strategy"]["matrix"]["release"] == list(RELEASES)
    assert yaml.safe_load(GITLAB.read_text())["images"]["parallel"]["matrix"] == [{"RELEASE": list(RELEASES)}]


@pytest.mark.parametrize("release", RELEASES)
def test_image_script_composes(release, tmp_path):
    named = re.search(r"(?m)^files=(\S+)$", IMAGE.read_text())[1].replace("$release", release)
    config = compose(named.split(":"), tmp_path)
    assert config["defaults"]["repos"]["branch"] == release
    assert config["machine"] == "qemuarm64" and "testimage" in config["local_conf_header"]
    locked = yaml.safe_load((ROOT / f"kas/{release}.lock.yml").read_text())["overrides"]["repos"]
    assert config["overrides"]["repos"] == locked


def test_image_script_names_the_releases():
    done = subprocess.run([IMAGE], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert all(f".ci/image {release}" in done.stderr for release in RELEASES)
