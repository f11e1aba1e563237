# SPDX-License-Identifier: MIT
SUMMARY = "Debian's Python, installer, rpmdeps, useradd, dpkg and apt where oe-core's are expected"
DESCRIPTION = "Programs that tasks call by a path in their native sysroot, so that HOSTTOOLS is not enough."
require recipes-debian/licence.inc
PROVIDES += "apt-native python3-native python3-installer-native rpm-native shadow-native"

inherit native

INHIBIT_DEFAULT_DEPS = "1"
# Not oe-core's own patches: a release's are for its own version of installer.
SRC_URI = "file://installer.patch"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}/installer"

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
    debian_dpkg
    debian_apt
}
# As oe-core's patches of dpkg have it: maintainer scripts run outside of the root, and D is its folder.
debian_dpkg() {
    cat > ${D}${bindir}/dpkg <<'END'
#!/bin/sh
for word; do
    case $word in
    --root=*) export D="${word#--root=}" ;;
    esac
done
exec /usr/bin/dpkg --force-script-chrootless --log=/dev/null "$@"
END
    chmod 0755 ${D}${bindir}/dpkg
}
# What lib/oe/package_manager/deb makes its apt.conf of: oe-core's own settings with Debian's methods. The last line is
# oe-core's patch of apt as a setting: packages stay unpacked until do_rootfs itself runs their scripts.
debian_apt() {
    install -d ${D}${localstatedir}/lib/apt ${D}${localstatedir}/cache/apt/archives/partial ${D}${localstatedir}/log/apt
    install -d ${D}${sysconfdir}/apt
    cat > ${D}${sysconfdir}/apt/apt.conf.sample <<'END'
Dir "${STAGING_DIR_NATIVE}/"
{
  State "var/lib/apt/" { Lists "#APTCONF#/lists/"; status "#ROOTFS#/var/lib/dpkg/status"; };
  Cache "var/cache/apt/" { Archives "archives/"; pkgcache ""; srcpkgcache ""; };
  Bin "${STAGING_BINDIR_NATIVE}/" { methods "/usr/lib/apt/methods/"; dpkg "dpkg"; };
  Etc "#APTCONF#" { Preferences "preferences"; };
  Log "var/log/apt" { Terminal ""; };
};
APT
{
  Install-Recommends "true";
  Immediate-Configure "false";
  Sandbox::User "root";
  Get { Assume-Yes "true"; };
  Architecture "arm64";
};
Acquire { AllowInsecureRepositories "true"; };
DPkg::Options {"--root=#ROOTFS#";"--admindir=#ROOTFS#/var/lib/dpkg";"--force-all";"--no-force-overwrite";"--no-debsig"};
DPkg::Path "";
DPkg::ConfigurePending "false";
END
}
wrapper() {
    printf '#!/bin/sh\nexec %s "$@"\n' $1 > $2
    chmod 0755 $2
}
