# SPDX-License-Identifier: MIT
SUMMARY = "Python bindings for libwayland, with the protocols of wayland-protocols"
DESCRIPTION = "Wayland client and server objects over cffi; a scanner turns protocol \
               files into Python modules at build time (xdg-shell, linux-dmabuf, presentation-time, viewporter …)."
HOMEPAGE = "https://github.com/flacjacket/pywayland"
SECTION = "devel/python"
# The scanner copies the licence of the protocol files, wayland's and wayland-protocols', into the modules.
# The release after wrynose warns of "&"; wrynose and scarthgap take "AND" for a licence.
LICENSE = "Apache-2.0 ${@bb.utils.contains_any('LAYERSERIES_COMPAT_core', 'wrynose scarthgap', '&', 'AND', d)} MIT"
LIC_FILES_CHKSUM = "\
    file://LICENSE;md5=5335066555b14d832335aa4660d6c376 \
    file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302 \
"

DEPENDS = "python3-cffi-native wayland wayland-native wayland-protocols"

# 0.4.19 needs setuptools 77, which scarthgap does not have.
SRC_URI[sha256sum] = "598ade02783aad05a328f663b51b694c5ab68bd5d1e0926c0da3c5212c566533"

REQUIRED_DISTRO_FEATURES = "wayland"

inherit pypi python_setuptools_build_meta pkgconfig features_check

RDEPENDS:${PN} += "\
    python3-cffi \
    python3-logging \
    python3-shell \
    python3-xml \
"
