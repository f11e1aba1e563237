# SPDX-License-Identifier: MIT
SUMMARY = "U-Boot script that boots Xen and Dom0 on i.MX8QM"
DESCRIPTION = "Loads Xen, Dom0's kernel and device tree from the boot partition and \
               hands Xen what it needs in /chosen."
SECTION = "bootloaders"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

DEPENDS = "u-boot-mkimage-native"
INHIBIT_DEFAULT_DEPS = "1"

SRC_URI = "file://boot.cmd.in"
# scarthgap has no UNPACKDIR yet.
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
B = "${WORKDIR}/build"
PACKAGE_ARCH = "${MACHINE_ARCH}"

REQUIRED_DISTRO_FEATURES = "xen-dmabuf xen"
COMPATIBLE_MACHINE = "^imx8qm-mek$"

inherit deploy features_check nopackages

# Only the boot processor's kind of core is used: a domain must not move between
# A53 and A72. "hmp-unsafe=true" plus pinned CPUs is the other way. The image tests have
# Xen print its grant tables, a line for each page that a guest shows.
XEN_DMABUF_XEN_ARGS ?= "console=dtuart dom0_mem=2048M dom0_max_vcpus=4 iommu=on conring_size=4M"
XEN_DMABUF_XEN_ARGS[doc] = "Xen's command line on the board."
XEN_DMABUF_DOM0_ARGS ?= "console=hvc0 root=/dev/mmcblk1p2 rootwait rw clk_ignore_unused"
XEN_DMABUF_DOM0_ARGS[doc] = "Dom0's kernel command line on the board."

do_compile() {
    sed -e 's|@DEVICETREE@|${XEN_DMABUF_IMX8QM_DEVICETREE}|' \
        -e 's|@KERNEL@|${KERNEL_IMAGETYPE}|' \
        -e 's|@XEN_ARGS@|${XEN_DMABUF_XEN_ARGS}|' \
        -e 's|@DOM0_ARGS@|${XEN_DMABUF_DOM0_ARGS}|' \
        ${S}/boot.cmd.in > ${B}/boot.cmd
    mkimage -A arm64 -T script -C none -n "Xen" -d ${B}/boot.cmd ${B}/boot.scr
}
do_compile[cleandirs] = "${B}"

do_deploy() {
    install -m 0644 ${B}/boot.scr ${DEPLOYDIR}/boot.scr
}
addtask deploy after do_compile before do_build
