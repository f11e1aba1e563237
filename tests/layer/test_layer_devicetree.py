# SPDX-License-Identifier: MIT
"""Dom0's device trees of the i.MX8QM MEK, against stand-ins for the board's own files.

It shows that dtc accepts the files and what comes out of them. That NXP's tree has
these labels is for `make kernel-check`, that the board does what the nodes say is
for the board.
"""

import re
import shutil
import subprocess

import pytest
from layer_files import LAYER, assignment

FOLDER = next(LAYER.rglob("imx8qm-mek-xen-dom0.dts")).parent
TREES = {"lvds": "imx8qm-mek-xen-dom0.dts", "hdmi": "imx8qm-mek-xen-dom0-hdmi.dts"}
MASTERS = ("gpu_3d0", "gpu_3d1", "dpu1", "dpu2")
# USB, the SD cards and Ethernet have these in the kernel's imx8qm-ss-conn.dtsi.
TAKEN = {0x4, 0x11, 0x12}
FOUR_GIB = 1 << 32
POOL_OF_GALCORE = 256 << 20

BOARD = """/dts-v1/;
/ {
    #address-cells = <2>;
    #size-cells = <2>;
    reserved-memory {
        #address-cells = <2>; #size-cells = <2>; ranges;
        gpu_reserved: gpu_reserved@8800000000 {
            no-map;
            reg = <0x8 0x80000000 0 0x10000000>;
        };
        linux,cma {
            size = <0 0x3c000000>;
            alloc-ranges = <0 0xc0000000 0 0x3c000000>;
        };
    };
    lpuart0: serial { };
    smmu: iommu { #iommu-cells = <2>; };
    bus {
        #address-cells = <1>;
        #size-cells = <1>;
        imx8_gpu_ss: imx8_gpu1_ss@80000000 {
            reg = <0x80000000 0x80000000>, <0x0 0x10000000>;
            reg-names = "phys_baseaddr", "contiguous_mem";
            memory-region = <&gpu_reserved>;
        };
    };
    hdmi: hdmi { status = "disabled"; };
    gpu_3d0: gpu_3d0 { };
    gpu_3d1: gpu_3d1 { };
    dpu1: dpu1 { };
    dpu2: dpu2 { };
};
"""
NXP = {
    "imx8qm-mek.dts": BOARD,
    "imx8qm-mek-hdmi.dts": BOARD + '&hdmi { status = "okay"; };\n',
}


def with_includes(name):
    """The text of a tree of ours or of NXP's stand-ins with what it includes."""
    text = NXP.get(name) or (FOLDER / name).read_text()
    return re.sub(r'(?m)^#include "([^"]+)"$', lambda found: with_includes(found[1]), text)


def compiled(name):
    """The compiled tree as text, resource names replaced by numbers."""
    text = with_includes(name)
    names = sorted(set(re.findall(r"IMX_SC_R_\w+", text)), key=len, reverse=True)
    for number, resource in enumerate(names, 1):
        text = re.sub(rf"\b{resource}\b", str(number), text)
    return dtc(dtc(text.encode(), "dts", "dtb"), "dtb", "dts").decode()


def dtc(tree, given, wanted):
    """By the binary form: dtc 1.7 would keep a reference's name, whose number is what counts."""
    done = subprocess.run(["dtc", "-q", "-I", given, "-O", wanted], input=tree, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=TREES.values(), ids=TREES)
def tree(request):
    if not shutil.which("dtc"):
        pytest.skip("dtc is not installed (package device-tree-compiler)")
    return compiled(request.param)


def node(tree, name):
    return re.search(rf"\b{re.escape(name)} \{{(.*?)\}};", tree, re.S)[1]


def numbers(tree, name, key):
    """A property's cells."""
    value = re.search(rf"\b{key} = <([^>]*)>;", node(tree, name))[1]
    return [int(cell, 16) for cell in value.split()]


def test_every_master_has_a_stream_of_its_own(tree):
    streams = [numbers(tree, master, "iommus")[1] for master in MASTERS]
    assert len(set(streams)) == len(MASTERS) and not TAKEN & set(streams)


def test_every_resource_has_one_stream(tree):
    """U-Boot gives the identifier to each resource; the last one would win."""
    lists = [re.search(r"fsl,sc_rsrc_id = ([^;]*);", node(tree, m))[1] for m in MASTERS]
    resources = [number for text in lists for number in re.findall(r"0x\w+", text)]
    assert len(resources) == len(set(resources))


@pytest.mark.parametrize(("master", "controller"), [("dpu1", "DC_0"), ("dpu2", "DC_1")])
def test_a_display_controller_is_among_its_own_resources(master, controller):
    """U-Boot ignores power-domains, which names it, once fsl,sc_rsrc_id is there."""
    text = with_includes("imx8qm-mek-xen-dom0.dtsi")
    own = re.search(rf"&{master} \{{(.*?)\}};", text, re.S)[1]
    resources = re.findall(r"<IMX_SC_R_(\w+)>", own)
    assert controller in resources and len(resources) == 9


def test_the_gpu_has_no_memory_that_linux_does_not_count_as_ram(tree):
    assert "gpu_reserved" not in tree and "memory-region" not in tree


def test_no_register_of_the_gpu_is_ram(tree):
    """Xen maps what reg says into Dom0, on top of the memory that is there."""
    reg = numbers(tree, "imx8_gpu1_ss@80000000", "reg")
    assert all(start + size <= 0x80000000 for start, size in zip(reg[::2], reg[1::2], strict=True))
    assert 'reg-names = "contiguous_mem"' in node(tree, "imx8_gpu1_ss@80000000")
    assert reg[1] == POOL_OF_GALCORE


def test_contiguous_memory_is_where_32_bits_reach_it_and_holds_the_gpus_pool(tree):
    high, low, size_high, size = numbers(tree, "linux,cma", "alloc-ranges")
    assert high == size_high == 0 and low + size <= FOUR_GIB
    assert POOL_OF_GALCORE < numbers(tree, "linux,cma", "size")[1] <= size


def test_hdmi_is_on_in_its_own_tree_only():
    if not shutil.which("dtc"):
        pytest.skip("dtc is not installed (package device-tree-compiler)")
    states = {
        display: re.search(r'status = "(\w+)"', node(compiled(name), "hdmi"))[1] for display, name in TREES.items()
    }
    assert states == {"lvds": "disabled", "hdmi": "okay"}


def test_the_boot_script_fills_in_the_module_of_the_tree(tree):
    script = next(LAYER.rglob("boot.cmd.in")).read_text()
    assert "xen,multiboot-module" in node(tree, "module@0")
    assert set(re.findall(r"fdt set (/chosen/\S+)", script)) == {"/chosen/module@0"}


def test_the_kernel_gets_every_file_and_builds_every_tree():
    include = next(LAYER.rglob("linux-xen-dmabuf-imx.inc")).read_text()
    files = {path.name for path in FOLDER.iterdir()}
    assert set(re.findall(r"file://(imx8qm\S+?)(?=[\s\"\\])", include)) == files
    built = set(re.findall(r"freescale/(\S+)\.dtb", include))
    assert built == {name.removesuffix(".dts") for name in TREES.values()}


@pytest.mark.parametrize("user", ["xen-dmabuf-boot_1.0.bb", "xen-dmabuf-image-dom0-imx8qm.inc"])
def test_one_variable_says_which_tree_is_booted(user):
    text = next(LAYER.rglob(user)).read_text()
    assert "${XEN_DMABUF_IMX8QM_DEVICETREE}" in text and ".dtb" not in text


def test_the_variable_names_the_tree_of_each_display():
    include = (LAYER / "conf/include/xen_dmabuf.inc").read_text()
    assert assignment(include, "XEN_DMABUF_IMX8QM_DISPLAY") in TREES
    value = assignment(include, "XEN_DMABUF_IMX8QM_DEVICETREE")
    expression = re.fullmatch(r"\$\{@(.*)\}", value)[1]
    for display, name in TREES.items():
        store = type("Store", (), {"getVar": lambda self, _name, display=display: display})()
        assert eval(expression, {"d": store}) == name.removesuffix("s") + "b"
