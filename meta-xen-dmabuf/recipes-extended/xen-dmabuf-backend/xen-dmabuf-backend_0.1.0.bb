# SPDX-License-Identifier: MIT
SUMMARY = "Dom0 backend of Xen's para-virtual display"
DESCRIPTION = "Serves the displif protocol of every DomU's drm_xen_front and shows the \
               frames, without a copy where the GPU allows it, as windows of Dom0's Wayland compositor."
SECTION = "graphics"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

# cffi builds xen_dmabuf.pump._pump. libgbm isn't linked; it makes sure at parse time that MACHINE has one.
DEPENDS = "python3-cffi-native virtual/libgbm"

export XEN_DMABUF_PUMP = "required"

XEN_DMABUF_SOURCE = "backend"
inherit xen_dmabuf_source
SRC_URI += "file://run-ptest"

REQUIRED_DISTRO_FEATURES = "xen-dmabuf xen wayland opengl systemd"

inherit bash-completion features_check python_setuptools_build_meta systemd useradd ptest

SYSTEMD_SERVICE:${PN} = "xen-dmabuf-backend.service"

# Groups of the devices and of the compositor's socket; the workers' accounts are systemd's (DynamicUser=).
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system xen-dmabuf; --system wayland; --system render"

# systemd before 256 asks root, too, for this capability before it starts or stops a unit.
XEN_DMABUF_OLD_SYSTEMD = "${@bb.utils.contains('LAYERSERIES_CORENAMES', 'scarthgap', '1', '0', d)}"

do_install:append() {
    oe_runmake -C ${S}/data install DESTDIR=${D} \
        sysconfdir=${sysconfdir} datadir=${datadir} mandir=${mandir} \
        systemdsystemunitdir=${systemd_system_unitdir} \
        sysusersdir=${nonarch_libdir}/sysusers.d \
        udevrulesdir=${nonarch_base_libdir}/udev/rules.d
    if [ "${XEN_DMABUF_OLD_SYSTEMD}" = 1 ]; then
        install -d ${D}${systemd_system_unitdir}/xen-dmabuf-backend.service.d
        printf '[Service]\nCapabilityBoundingSet=CAP_SYS_ADMIN\n' \
            > ${D}${systemd_system_unitdir}/xen-dmabuf-backend.service.d/systemd-255.conf
    fi
}

do_install_ptest() {
    cp -r ${S}/tests ${S}/data ${D}${PTEST_PATH}/
}

# A DomU that is to attack the backend has the program and the modules that it imports, not the service.
PACKAGES =+ "${PN}-hostile ${PN}-modules"
FILES:${PN}-hostile += "\
    ${PTEST_PATH}/tests/frontend.py \
    ${PTEST_PATH}/tests/on_xen*.py \
    ${PTEST_PATH}/tests/real_xen.py \
    ${PTEST_PATH}/tests/waiting.py \
"
FILES:${PN}-modules += "${PYTHON_SITEPACKAGES_DIR}"
FILES:${PN} += "${systemd_system_unitdir} ${nonarch_libdir}/sysusers.d ${nonarch_base_libdir}/udev"
CONFFILES:${PN} = "${sysconfdir}/xen-dmabuf/backend.toml"

# libatomic and libgbm are loaded by name, so no shared-library scan finds them.
RDEPENDS:${PN} += "\
    ${PN}-modules \
    libatomic \
    libgbm \
    python3-cffi \
    python3-pywayland \
    python3-systemd \
"
RDEPENDS:${PN}-modules += "\
    python3-asyncio \
    python3-core \
    python3-ctypes \
    python3-fcntl \
    python3-io \
    python3-json \
    python3-logging \
    python3-mmap \
    python3-numbers \
    python3-shell \
    python3-tomllib \
    xen-tools-python \
"
RDEPENDS:${PN}-hostile += "${PN}-modules"
RDEPENDS:${PN}-ptest += "\
    ${PN}-hostile \
    python3-hypothesis \
    python3-math \
    python3-multiprocessing \
    python3-pickle \
    python3-pytest \
    python3-resource \
    python3-unittest-automake-output \
"
