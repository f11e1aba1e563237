# SPDX-License-Identifier: MIT
SUMMARY = "A guest whose Weston draws on Xen's virtual display"
DESCRIPTION = "Minimal: drm_xen_front, Weston with the pixman renderer, a client that moves \
               and the test pattern. The Dom0 image takes it in."
SECTION = "images"
LICENSE = "MIT"

REQUIRED_DISTRO_FEATURES = "xen-dmabuf xen wayland systemd pam"

inherit core-image features_check

IMAGE_FEATURES += "weston"
IMAGE_INSTALL = "\
    packagegroup-core-boot \
    packagegroup-xen-dmabuf-domu \
    xen-dmabuf-pattern \
    ${CORE_IMAGE_EXTRA_INSTALL} \
"
# The Dom0 image copies the file system, so one form of it is enough.
IMAGE_FSTYPES = "ext4"
