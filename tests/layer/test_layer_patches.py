# SPDX-License-Identifier: MIT
import re
import subprocess

import pytest
from oe_trees import ROOT

PATCHES = sorted((ROOT / "kernel-patches").glob("*/*.patch"))
STATUS = re.compile(r"^Upstream-Status: (Pending|Submitted|Denied|Inappropriate|Backport)\b", re.M)


def test_there_are_patches():
    assert PATCHES


@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: f"{p.parent.name}/{p.name}")
class TestPatch:
    def test_git_can_parse_it(self, patch):
        done = subprocess.run(
            ["git", "apply", "--numstat", str(patch)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip(), "no file is changed"

    def test_its_header_has_an_upstream_status(self, patch):
        header = patch.read_text().split("\ndiff --git ")[0]
        assert STATUS.search(header), "no Upstream-Status line that OpenEmbedded knows"

    def test_its_header_has_author_subject_and_sign_off(self, patch):
        header = patch.read_text().split("\ndiff --git ")[0]
        for field in ("From:", "Subject:", "Signed-off-by:"):
            assert re.search(rf"^{field} \S", header, re.M), f"no {field}"


@pytest.mark.parametrize("folder", sorted({p.parent for p in PATCHES}), ids=lambda p: p.name)
def test_series_is_numbered_without_a_gap(folder):
    numbers = [int(p.name[:4]) for p in sorted(folder.glob("*.patch"))]
    assert numbers == list(range(1, len(numbers) + 1))
