# SPDX-License-Identifier: MIT
SUMMARY = "Everything that an image needs to show, or to be shown"
DESCRIPTION = "packagegroup-xen-dmabuf-dom0 goes into a Dom0 that shows its guests' displays, \
               packagegroup-xen-dmabuf-domu into a guest that draws on one."
SECTION = "graphics"

# libgbm, mesa and weston differ by machine.
PACKAGE_ARCH = "${MACHINE_ARCH}"

REQUIRED_DISTRO_FEATURES = "xen-dmabuf xen wayland systemd"

inherit packagegroup features_check

PACKAGES = "${PN}-dom0 ${PN}-domu"

RDEPENDS:${PN}-dom0 = "\
    xen-dmabuf-backend \
    xen-dmabuf-weston-dom0 \
    xen-tools-scripts-block \
    xen-tools-scripts-network \
    xen-tools-xencommons \
    xen-tools-xendomains \
    xen-tools-xl \
"
RDEPENDS:${PN}-dom0:append:qemuall = " xen-dmabuf-weston-force-renderer"

RDEPENDS:${PN}-domu = "xen-dmabuf-weston-domu"
