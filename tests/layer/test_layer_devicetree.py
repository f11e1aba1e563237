# SPDX-License-Identifier: MIT
"""Dom0's device tree of the i.MX8QM MEK, against stand-ins for the board's labels.

It shows that dtc accepts the file and what comes out of it. That NXP's tree has
these labels, and that the board does what the nodes say, is for the board.
"""

import re
import shutil
import subprocess

import pytest
from layer_files import LAYER

SOURCE = next(LAYER.rglob("imx8qm-mek-xen-dom0.dts"))
MASTERS = ("gpu_3d0", "gpu_3d1", "dpu1", "dpu2")
# Ethernet and the SD cards have these in the kernel's imx8qm-ss-conn.dtsi.
TAKEN = {0x11, 0x12}

BOARD = """/dts-v1/;
/ {
    #address-cells = <2>;
    #size-cells = <2>;
    reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges; };
    lpuart0: serial { };
    smmu: iommu { #iommu-cells = <2>; };
    %s
};
"""


@pytest.fixture
def tree(tmp_path):
    """The compiled tree as text, resource names replaced by numbers."""
    if not shutil.which("dtc"):
        pytest.skip("dtc is not installed (package device-tree-compiler)")
    nodes = "\n".join(f"    {name}: {name} {{ }};" for name in MASTERS)
    text = SOURCE.read_text().replace('#include "imx8qm-mek.dts"', BOARD % nodes)
    names = sorted(set(re.findall(r"IMX_SC_R_\w+", text)), key=len, reverse=True)
    for number, name in enumerate(names, 1):
        text = re.sub(rf"\b{name}\b", str(number), text)
    done = subprocess.run(
        ["dtc", "-q", "-I", "dts", "-O", "dts"], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def node(tree, name):
    return re.search(rf"\b{name} \{{(.*?)\}};", tree, re.S)[1]


def test_every_master_has_a_stream_of_its_own(tree):
    streams = [int(re.search(r"iommus = <0x\w+ (0x\w+) ", node(tree, m))[1], 16) for m in MASTERS]
    assert len(set(streams)) == len(MASTERS) and not TAKEN & set(streams)


def test_every_resource_has_one_stream(tree):
    """U-Boot gives the identifier to each resource; the last one would win."""
    lists = [re.search(r"fsl,sc_rsrc_id = ([^;]*);", node(tree, m))[1] for m in MASTERS]
    resources = [number for text in lists for number in re.findall(r"0x\w+", text)]
    assert len(resources) == len(set(resources))


def test_the_boot_script_fills_in_the_module_of_the_tree(tree):
    script = next(LAYER.rglob("boot.cmd.in")).read_text()
    assert "xen,multiboot-module" in node(tree, "module@0")
    assert set(re.findall(r"fdt set (/chosen/\S+)", script)) == {"/chosen/module@0"}
