# SPDX-License-Identifier: MIT
SUMMARY = "Debian's pseudo where oe-core's is expected"
require recipes-debian/licence.inc
PROVIDES += "virtual/fakeroot-native"

inherit native

INHIBIT_DEFAULT_DEPS = "1"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    for program in pseudo pseudodb pseudolog; do
        install -Dm 0755 /usr/bin/$program ${D}${bindir}/$program
    done
    # The program looks for its library below PSEUDO_PREFIX where Debian has it, bitbake's tasks in oe-core's place.
    for folder in $(cd /usr/lib && echo */pseudo); do
        for place in lib/$folder lib/pseudo/lib lib/pseudo/lib64; do
            install -Dm 0755 /usr/lib/$folder/libpseudo.so ${D}${prefix}/$place/libpseudo.so
        done
    done
    install -d ${D}${localstatedir}/pseudo
}

INSANE_SKIP:${PN} = "already-stripped"
INHIBIT_SYSROOT_STRIP = "1"
