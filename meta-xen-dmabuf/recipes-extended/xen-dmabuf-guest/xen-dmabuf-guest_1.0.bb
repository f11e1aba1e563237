# SPDX-License-Identifier: MIT
SUMMARY = "xl configuration of the guest with a virtual display, and its network"
DESCRIPTION = "The guest is started at boot, after the display backend. A package of \
               its own bridges Dom0's wired network to the guests' interfaces."
SECTION = "base"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

SRC_URI = "\
    file://domu.cfg \
    file://qemu.conf \
    file://xenbr0-port.network \
    file://xenbr0.netdev \
    file://xenbr0.network \
    file://xendomains.conf \
"
# scarthgap has no UNPACKDIR yet.
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"

REQUIRED_DISTRO_FEATURES = "xen-dmabuf xen systemd"

INHIBIT_DEFAULT_DEPS = "1"

inherit allarch features_check

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    disk=file:${XEN_DMABUF_GUEST_DISK}
    case ${XEN_DMABUF_GUEST_DISK} in
    /dev/*) disk=phy:${XEN_DMABUF_GUEST_DISK} ;;
    esac
    install -d ${D}${sysconfdir}/xen
    sed "s|file:/var/lib/xen/images/domu.ext4|$disk|" ${S}/domu.cfg > ${D}${sysconfdir}/xen/domu.cfg
    chmod 0644 ${D}${sysconfdir}/xen/domu.cfg
    install -d ${D}${sysconfdir}/xen/auto
    ln -s ../domu.cfg ${D}${sysconfdir}/xen/auto/domu.cfg
    units=${D}${systemd_system_unitdir}
    install -Dm 0644 ${S}/xendomains.conf $units/xendomains.service.d/xen-dmabuf.conf
    echo "RequiresMountsFor=${XEN_DMABUF_GUEST_DISK}" >> $units/xendomains.service.d/xen-dmabuf.conf
    install -Dm 0644 ${S}/qemu.conf $units/xen-qemu-dom0-disk-backend.service.d/xen-dmabuf.conf
    # Before systemd's own "80-wired", whose DHCP would take the port.
    install -Dm 0644 ${S}/xenbr0.netdev ${D}${systemd_unitdir}/network/10-xenbr0.netdev
    install -Dm 0644 ${S}/xenbr0.network ${D}${systemd_unitdir}/network/10-xenbr0.network
    install -Dm 0644 ${S}/xenbr0-port.network ${D}${systemd_unitdir}/network/11-xenbr0-port.network
}

PACKAGES = "${PN}-network ${PN}"
FILES:${PN}-network += "${systemd_unitdir}/network"
FILES:${PN} += "${sysconfdir}/xen ${systemd_system_unitdir}"
CONFFILES:${PN} = "${sysconfdir}/xen/domu.cfg"

RDEPENDS:${PN} = "xen-dmabuf-backend xen-tools-xendomains xen-tools-xl"
RRECOMMENDS:${PN}-network = "kernel-module-bridge"
