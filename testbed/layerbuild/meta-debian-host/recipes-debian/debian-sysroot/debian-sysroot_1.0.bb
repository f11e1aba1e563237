# SPDX-License-Identifier: MIT
SUMMARY = "Debian's arm64 libraries, headers and Python under the names of OpenEmbedded's recipes"
DESCRIPTION = "One package for each Debian package that has shared libraries, named as Debian names it, so that the \
               shared-library scan writes Debian's names as dependencies; and an empty package for each other name \
               that the layer's packages and images depend on. Of these, base-passwd, shadow and systemd have what \
               do_rootfs itself works with."
require recipes-debian/licence.inc
INHIBIT_DEFAULT_DEPS = "1"

# DEBIAN_DEBS, DEBIAN_LIBRARIES, FILES of each; testbed/layerbuild writes it into the build folder.
require conf/debian-sysroot.inc

FILESEXTRAPATHS:prepend := "${DEBIAN_SYSROOT_FOLDER}:"
SRC_URI = "${@' '.join('file://%s.deb;unpack=0' % name for name in d.getVar('DEBIAN_DEBS').split())}"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"

PROVIDES += "\
    base-passwd bash-completion elfutils expat gcc-runtime glibc libdrm libffi libgcc linux-libc-headers openssl python3 \
    python3-cffi shadow systemd udev virtual/${TARGET_PREFIX}binutils virtual/${TARGET_PREFIX}compilerlibs \
    virtual/${TARGET_PREFIX}g++ virtual/${TARGET_PREFIX}gcc virtual/${TARGET_PREFIX}libc-for-gcc virtual/compilerlibs \
    virtual/cross-binutils virtual/cross-c++ virtual/cross-cc virtual/crypt virtual/egl virtual/libc virtual/libgbm \
    virtual/libgles2 virtual/libiconv virtual/libintl virtual/mesa wayland wayland-protocols weston xen-tools zlib \
"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

DEBIAN_TUPLE = "aarch64-linux-gnu"
DEBIAN_GROUPS = "root:0 tty:5 disk:6 mail:8 dialout:20 shadow:42 utmp:43 video:44 input:101"
DEBIAN_PASSWD = "root::0:0:root:${ROOT_HOME}:/bin/sh\n"
DEBIAN_GROUP = "${@''.join('%s:x:%s:\\n' % tuple(entry.split(':')) for entry in d.getVar('DEBIAN_GROUPS').split())}"
DEBIAN_TARGETS = "getty graphical multi-user sockets sysinit"

do_install() {
    for deb in ${DEBIAN_DEBS}; do
        dpkg-deb -x ${S}/$deb.deb ${D}
    done
    # oe-core has no folders by architecture.
    for folder in ${D}${prefix}/lib ${D}${prefix}/include; do
        cp -a --remove-destination $folder/${DEBIAN_TUPLE}/. $folder/
        rm -r $folder/${DEBIAN_TUPLE}
    done
    find ${D} -type l -lname '*/${DEBIAN_TUPLE}/*' | while read -r link; do
        ln -sf "$(basename "$(readlink "$link")")" "$link"
    done
    sed -i -e 's|/${DEBIAN_TUPLE}||g' $(find ${D} -name '*.pc' -type f) ${D}${libdir}/libc.so ${D}${libdir}/libm.so
    # Debian's /lib is a link, which no package brings.
    sed -i -e 's| /lib/| /usr/lib/|g' ${D}${libdir}/libc.so ${D}${libdir}/libm.so
    rm -r ${D}${datadir}/doc ${D}${datadir}/man ${D}${datadir}/lintian ${D}${datadir}/bug

    # setup_target_config of python3targetconfig.bbclass names this module; its folders are those of the recipe's sysroot.
    install -d ${D}${libdir}/python-sysconfigdata
    sed -e 's|/${DEBIAN_TUPLE}||g' ${D}${libdir}/python${DEBIAN_PYTHON}/_sysconfigdata__${DEBIAN_TUPLE}.py \
        > ${D}${libdir}/python-sysconfigdata/_sysconfigdata.py
    cat >> ${D}${libdir}/python-sysconfigdata/_sysconfigdata.py <<'END'
import os
for _name, _value in build_time_vars.items():
    if isinstance(_value, str):
        _value = _value.replace("/usr/include", os.environ["STAGING_INCDIR"])
        build_time_vars[_name] = _value.replace("/usr/lib", os.environ["STAGING_LIBDIR"])
END

    # What useradd.bbclass finds in the sysroot; oe-core's base-passwd has more.
    install -d ${D}${sysconfdir}
    printf '${DEBIAN_PASSWD}' > ${D}${sysconfdir}/passwd
    printf '${DEBIAN_GROUP}' > ${D}${sysconfdir}/group

    # Presets are only looked at in a root that has the program; what is in the units doesn't matter. No postinst enables
    # networkd, as in oe-core: presets alone do. scarthgap's systemd-serialgetty brings the template itself.
    units=${D}${nonarch_libdir}/systemd/system
    install -d $units ${D}${sysconfdir}/systemd/system
    install -m 0644 ${COREBASE}/meta/recipes-core/systemd/systemd/99-default.preset -Dt ${D}${nonarch_libdir}/systemd/system-preset
    : > ${D}${nonarch_libdir}/systemd/systemd
    for target in ${DEBIAN_TARGETS}; do
        printf '[Unit]\nDescription=%s\n' $target > $units/$target.target
    done
    printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' > $units/systemd-networkd.service
    test -e ${COREBASE}/meta/recipes-core/systemd/systemd-serialgetty/serial-getty@.service ||
        printf '[Service]\nExecStart=/bin/true\n' > $units/serial-getty@.service
    echo 'enable systemd-networkd.service' > ${D}${nonarch_libdir}/systemd/system-preset/90-systemd.preset
    chown -R 0:0 ${D}
}
do_install[cleandirs] = "${D}"

# The script is oe-core's base-passwd's: the files are as new where this recipe was built again, and users that other
# recipes have added to a sysroot are added once more.
sysroot_stage_all:append() {
    sysroot_stage_dir ${D}${sysconfdir} ${SYSROOT_DESTDIR}${sysconfdir}
    install -d ${SYSROOT_DESTDIR}${bindir}
    cat > ${SYSROOT_DESTDIR}${bindir}/postinst-base-passwd <<'END'
#!/bin/sh -e
for script in "${0%/*}"/postinst-useradd-*; do
    test ! -f "$script" || "$script"
done
END
    chmod 0755 ${SYSROOT_DESTDIR}${bindir}/postinst-base-passwd
}

DEBIAN_EMPTY = "\
    base-passwd bash-completion busybox busybox-syslog kbd kernel-module-bridge libatomic libgbm locale-base-c \
    locale-base-en-gb locale-base-en-us netbase openssh ptest-runner python3-asyncio python3-cffi python3-core \
    python3-ctypes python3-fcntl python3-hypothesis python3-io python3-json python3-logging python3-math \
    python3-mmap python3-multiprocessing python3-numbers python3-pickle python3-pytest python3-resource \
    python3-shell python3-systemd python3-terminal python3-tomllib python3-unittest-automake-output python3-xml \
    shadow shadow-base systemd tar udev update-alternatives-opkg util-linux-fcntl-lock util-linux-flock wayland-utils \
    weston weston-examples weston-xwayland xen-tools-python xen-tools-scripts-block xen-tools-scripts-network \
    xen-tools-xencommons xen-tools-xendomains xen-tools-xl \
"
PACKAGES = "${DEBIAN_LIBRARIES} ${DEBIAN_EMPTY}"
python () {
    for package in d.getVar('PACKAGES').split():
        d.setVar(f'ALLOW_EMPTY:{package}', '1')
        d.setVar(f'DEBIAN_NOAUTONAME:{package}', '1')
        d.setVar(f'RDEPENDS:{package}', '')
    for package in d.getVar('DEBIAN_EMPTY').split():
        d.setVar(f'FILES:{package}', '')
    d.setVar('FILES:systemd', '${nonarch_libdir}/systemd ${sysconfdir}/systemd')
    d.setVar('RDEPENDS:systemd', 'systemd-serialgetty')
    d.setVar('RRECOMMENDS:systemd', 'systemd-conf')
}

# As oe-core's base-passwd: before any other package's preinst adds to them.
pkg_preinst:base-passwd() {
    mkdir -p $D${sysconfdir}
    test -e $D${sysconfdir}/passwd || printf '${DEBIAN_PASSWD}' > $D${sysconfdir}/passwd
    test -e $D${sysconfdir}/group || printf '${DEBIAN_GROUP}' > $D${sysconfdir}/group
}
# As oe-core's shadow.
pkg_postinst:shadow() {
    pwconv --root $D
    grpconv --root $D
}

PACKAGE_ARCH = "${MACHINE_ARCH}"
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_PACKAGE_DEBUG_SPLIT = "1"
INHIBIT_SYSROOT_STRIP = "1"
# Debian's files don't follow oe-core's rules; ours are looked at.
ERROR_QA = ""
WARN_QA = ""
do_package_qa[noexec] = "1"
EXCLUDE_FROM_WORLD = "1"
