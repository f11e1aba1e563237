# SPDX-License-Identifier: MIT
# An IMAGE_CLASSES of "make layer-build": what nothing here is made for, with all that it would depend on.

# Not by deltask: some of these classes come later.
python () {
    for task in ('do_populate_sdk', 'do_populate_sdk_ext', 'do_sdk_depends'):
        bb.build.deltask(task, d)
}

# runqemu's device tree would want QEMU and Xen.
do_write_xen_qemuboot_dtb[noexec] = "1"
do_write_xen_qemuboot_dtb[depends] = ""
