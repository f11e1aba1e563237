# SPDX-License-Identifier: MIT
SUMMARY = "KMS test pattern for a DomU's virtual display"
DESCRIPTION = "Flips between frames whose every pixel is known, so that a picture taken \
               in Dom0 says which frame of which DomU is shown and whether it is whole."
SECTION = "graphics"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

DEPENDS = "libdrm"

XEN_DMABUF_SOURCE = "clients/pattern"
inherit xen_dmabuf_source

REQUIRED_DISTRO_FEATURES = "xen-dmabuf"

inherit features_check meson pkgconfig

do_install:append() {
    install -D -m 0755 ${S}/pattern-init ${D}${nonarch_libdir}/xen-dmabuf/pattern-init
}

FILES:${PN} += "${nonarch_libdir}/xen-dmabuf"
