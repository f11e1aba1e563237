# SPDX-License-Identifier: MIT
SUMMARY = "Debian's Python, installer, rpmdeps and useradd where oe-core's are expected"
DESCRIPTION = "Programs that tasks call by a path in their native sysroot, so that HOSTTOOLS is not enough."
LICENSE = "CLOSED"
PROVIDES += "python3-native python3-installer-native rpm-native shadow-native"

inherit native

INHIBIT_DEFAULT_DEPS = "1"
# oe-core's own changes of installer: an option that python_pep517.bbclass gives, and a stable order.
FILESEXTRAPATHS:prepend := "${COREBASE}/meta/recipes-devtools/python/python3-installer:"
SRC_URI = "${@' '.join('file://' + os.path.basename(p) for p in debian_installer_patches(d))}"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}/installer"

def debian_installer_patches(d):
    import glob

    return sorted(glob.glob(d.expand('${COREBASE}/meta/recipes-devtools/python/python3-installer/*.patch')))

do_unpack:append() {
    bb.build.exec_func('debian_installer', d)
}
debian_installer() {
    install -d ${S}/src
    cp -r /usr/lib/python3/dist-packages/installer ${S}/src/
}
do_unpack[cleandirs] = "${S}"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${libdir}/debian-python ${D}${bindir}/python3-native ${D}${libdir}/rpm ${D}${sbindir}
    cp -r ${S}/src/installer ${D}${libdir}/debian-python/
    for name in python3 nativepython3 python; do
        cat > ${D}${bindir}/python3-native/$name <<'END'
#!/bin/sh
# Debian's Python puts modules into dist-packages, as the target's does.
export DEB_PYTHON_INSTALL_LAYOUT=deb
here=$(dirname "$(readlink -f "$0")")
export PYTHONPATH="$here/../../lib/debian-python${PYTHONPATH:+:$PYTHONPATH}"
exec /usr/bin/python3 "$@"
END
        chmod 0755 ${D}${bindir}/python3-native/$name
    done
    ln -s python3-native/nativepython3 ${D}${bindir}/nativepython3
    wrapper /usr/lib/rpm/rpmdeps ${D}${libdir}/rpm/rpmdeps
    for program in groupadd groupdel useradd userdel usermod; do
        wrapper /usr/sbin/$program ${D}${sbindir}/$program
    done
}
wrapper() {
    printf '#!/bin/sh\nexec %s "$@"\n' $1 > $2
    chmod 0755 $2
}
