# SPDX-License-Identifier: MIT
SUMMARY = "Weston's configuration for Dom0 and for DomUs with a virtual display"
DESCRIPTION = "One package per side, each a weston.ini of its own folder and a drop-in for \
               weston.service that makes Weston look there first, and one for both that makes Weston \
               come back however often it ends. Another makes Dom0 a kiosk, each output one guest's; a \
               last one keeps Weston from direct scan-out where the display would read machine memory \
               behind Xen's back."
SECTION = "graphics"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

FILESEXTRAPATHS:prepend := "${THISDIR}/xen-dmabuf:"
SRC_URI = "\
    file://60-xen-dmabuf-input.rules \
    file://dom0.conf \
    file://dom0.ini \
    file://domu.conf \
    file://domu.ini \
    file://force-renderer.conf \
    file://kiosk.conf \
    file://kiosk.ini \
    file://kiosk.toml \
    file://restart-socket.conf \
    file://restart.conf \
"
# scarthgap has no UNPACKDIR yet.
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"

REQUIRED_DISTRO_FEATURES = "xen-dmabuf wayland systemd"

inherit features_check

# As weston-init, which it depends on.
PACKAGE_ARCH = "${MACHINE_ARCH}"
INHIBIT_DEFAULT_DEPS = "1"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    dropins=${D}${systemd_system_unitdir}/weston.service.d
    for side in dom0 domu kiosk; do
        install -Dm 0644 ${S}/$side.ini ${D}${sysconfdir}/xen-dmabuf/$side/weston/weston.ini
        install -Dm 0644 ${S}/$side.conf $dropins/xen-dmabuf-$side.conf
    done
    install -Dm 0644 ${S}/kiosk.toml ${D}${sysconfdir}/xen-dmabuf/backend.toml.d/kiosk.toml
    install -Dm 0644 ${S}/60-xen-dmabuf-input.rules ${D}${nonarch_base_libdir}/udev/rules.d/60-xen-dmabuf-input.rules
    install -Dm 0644 ${S}/force-renderer.conf $dropins/xen-dmabuf-force-renderer.conf
    install -Dm 0644 ${S}/restart.conf $dropins/xen-dmabuf-restart.conf
    install -Dm 0644 ${S}/restart-socket.conf ${D}${systemd_system_unitdir}/weston.socket.d/xen-dmabuf-restart.conf
}

# Weston reads one weston.ini, so ours takes the place of the BSP's: what meta-freescale's
# weston-init sets for this GPU goes into it.
do_install:append:mx8-nxp-bsp() {
    for side in dom0 kiosk; do
        sed -i -e '/^\[core\]/a repaint-window=16' \
               -e '$a \\n[libinput]\ntouchscreen_calibrator=true' \
            ${D}${sysconfdir}/xen-dmabuf/$side/weston/weston.ini
    done
}

PACKAGES = "${PN}-dom0 ${PN}-domu ${PN}-kiosk ${PN}-force-renderer ${PN}-restart"
FILES:${PN}-dom0 += "${sysconfdir}/xen-dmabuf/dom0 ${systemd_system_unitdir}/weston.service.d/xen-dmabuf-dom0.conf"
FILES:${PN}-domu += "${sysconfdir}/xen-dmabuf/domu ${systemd_system_unitdir}/weston.service.d/xen-dmabuf-domu.conf \
                     ${nonarch_base_libdir}/udev/rules.d/60-xen-dmabuf-input.rules"
FILES:${PN}-force-renderer += "${systemd_system_unitdir}/weston.service.d/xen-dmabuf-force-renderer.conf"
FILES:${PN}-restart += "${systemd_system_unitdir}/weston.service.d/xen-dmabuf-restart.conf \
                        ${systemd_system_unitdir}/weston.socket.d"
FILES:${PN}-kiosk += "\
    ${sysconfdir}/xen-dmabuf/backend.toml.d \
    ${sysconfdir}/xen-dmabuf/kiosk \
    ${systemd_system_unitdir}/weston.service.d/xen-dmabuf-kiosk.conf \
"
CONFFILES:${PN}-dom0 = "${sysconfdir}/xen-dmabuf/dom0/weston/weston.ini"
CONFFILES:${PN}-domu = "${sysconfdir}/xen-dmabuf/domu/weston/weston.ini"

CONFFILES:${PN}-kiosk = "\
    ${sysconfdir}/xen-dmabuf/backend.toml.d/kiosk.toml \
    ${sysconfdir}/xen-dmabuf/kiosk/weston/weston.ini \
"

RDEPENDS:${PN}-dom0 = "${PN}-restart weston weston-init"
# weston-examples has the client that domu.ini starts.
RDEPENDS:${PN}-domu = "${PN}-restart weston weston-examples weston-init"
RDEPENDS:${PN}-kiosk = "${PN}-dom0 xen-dmabuf-backend"
RDEPENDS:${PN}-force-renderer = "weston-init"
RDEPENDS:${PN}-restart = "weston-init"
RCONFLICTS:${PN}-dom0 = "${PN}-domu"
