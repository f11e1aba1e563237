# SPDX-License-Identifier: MIT
import re
import subprocess
import sys
from pathlib import Path

import pytest
from oe_trees import ROOT

sys.path.insert(0, str(ROOT / "lib"))
from xen_dmabuf_layer import kernelseries  # noqa: E402

TOP = ROOT / kernelseries.TOP
PATCHES = sorted(TOP.rglob("*.patch"))
STATUS = re.compile(r"^Upstream-Status: (Pending|Submitted|Denied|Inappropriate|Backport)\b", re.M)


def test_there_are_patches():
    assert PATCHES


def test_every_patch_is_applied_to_some_line():
    used = {path for line in kernelseries.lines(ROOT) for path in kernelseries.patches(ROOT, line, True, line)}
    assert set(map(str, PATCHES)) == used


@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: str(p.relative_to(TOP)))
class TestPatch:
    def test_git_can_parse_it(self, patch):
        done = subprocess.run(["git", "apply", "--numstat", str(patch)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip(), "no file is changed"

    def test_its_header_has_an_upstream_status(self, patch):
        header = patch.read_text().split("\ndiff --git ")[0]
        assert STATUS.search(header), "no Upstream-Status line that OpenEmbedded knows"

    def test_its_header_has_author_and_subject_and_no_sign_off(self, patch):
        """Who posts it signs it."""
        header = patch.read_text().split("\ndiff --git ")[0]
        for field in ("From:", "Subject:"):
            assert re.search(rf"^{field} \S", header, re.M), f"no {field}"
        assert not re.search(r"^Signed-off-by:", header, re.M)


@pytest.mark.parametrize("line", kernelseries.lines(ROOT))
def test_a_number_stands_for_one_patch(line):
    """A patch that was renamed in common/ only would be applied twice; SRC_URI tells them apart by their names."""
    numbers = [Path(p).name[:4] for p in kernelseries.patches(ROOT, line, True, line)]
    assert all(n.isdigit() for n in numbers)
    assert sorted(numbers) == sorted(set(numbers))
