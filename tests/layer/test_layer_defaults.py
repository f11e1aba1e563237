# SPDX-License-Identifier: MIT
"""What bitbake's own parser makes of conf/include/xen_dmabuf.inc. Needs OE_TREES; a second."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from layer_files import LAYER
from oe_trees import CHECKED

# How meta-virtualization and a machine set it.
MACHINES = {
    "qemuarm64": 'SERIAL_CONSOLES:qemuarm64 ?= "115200;ttyAMA0"\nSERIAL_CONSOLES ?= "115200;ttyAMA0 115200;hvc0"\n',
    "imx8qm-mek": 'SERIAL_CONSOLES = "115200;ttyLP0"\n',
}


@pytest.mark.parametrize("release", CHECKED)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("local", "wanted"),
    [("", "115200;hvc0"), ('XEN_DMABUF_SERIAL_CONSOLES = "115200;hvc0 115200;ttyS9"\n', "115200;hvc0 115200;ttyS9")],
)
def test_no_getty_waits_on_the_port_that_xen_has(trees, tmp_path, release, machine, local, wanted):
    bitbake = trees / release / "bitbake/lib"
    if not bitbake.is_dir():
        pytest.skip(f"OE_TREES has no {release}/bitbake")
    overrides = f'OVERRIDES = "{machine}:forcevariable"\n'
    (tmp_path / "kernel.conf").write_text(
        overrides + local + MACHINES[machine] + "require conf/include/xen_dmabuf.inc\n"
    )
    (tmp_path / "kernel.bb").write_text("")
    program = Path(__file__).with_name("parse_kernel.py")
    command = [sys.executable, program, bitbake, LAYER, tmp_path, "SERIAL_CONSOLES"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"SERIAL_CONSOLES": wanted}
