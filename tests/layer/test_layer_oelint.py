# SPDX-License-Identifier: MIT
import subprocess
import sys
from pathlib import Path

import pytest
from layer_files import LAYER, layer_files
from oe_trees import RELEASES


@pytest.mark.parametrize("release", RELEASES)
def test_oelint_has_no_finding(release):
    files = layer_files(".bb", ".bbappend", ".inc", ".bbclass") + [LAYER / "conf/layer.conf"]
    oelint = Path(sys.executable).with_name("oelint-adv")
    done = subprocess.run(
        [oelint, "--release", release, "--quiet", "--nobackup", "--relpaths"]
        # --constantmods takes all words up to the next option.
        + ["--constantmods", "+oelint.constants.json", "--jobs", "1"]
        + [str(path.relative_to(LAYER)) for path in files],
        cwd=LAYER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
