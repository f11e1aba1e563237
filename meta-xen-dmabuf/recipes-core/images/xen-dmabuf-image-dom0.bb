# SPDX-License-Identifier: MIT
SUMMARY = "A Dom0 that shows its guests' displays in Weston"
DESCRIPTION = "Minimal: Xen's tools, Weston on the GPU, the display backend, and one guest \
               that is started at boot."
SECTION = "images"
LICENSE = "MIT"

REQUIRED_DISTRO_FEATURES = "xen-dmabuf xen virtualization wayland opengl systemd pam"

inherit core-image features_check

XEN_DMABUF_GUEST_IMAGE ?= "xen-dmabuf-image-domu"
XEN_DMABUF_GUEST_IMAGE[doc] = "The image recipe of the guest that the Dom0 image holds; empty for none. It needs IMAGE_FSTYPES with ext4."

IMAGE_FEATURES += "weston ssh-server-openssh"
IMAGE_INSTALL = "\
    packagegroup-core-boot \
    packagegroup-xen-dmabuf-dom0 \
    ${@'xen-dmabuf-guest xen-dmabuf-guest-network' if d.getVar('XEN_DMABUF_GUEST_IMAGE') else ''} \
    ${CORE_IMAGE_EXTRA_INSTALL} \
"

# The hypervisor is no package of the file system, but the image boots by it.
do_image_complete[depends] += "xen:do_deploy"

do_rootfs[depends] += "${@d.expand('${XEN_DMABUF_GUEST_IMAGE}:do_image_complete virtual/kernel:do_deploy') if d.getVar('XEN_DMABUF_GUEST_IMAGE') else ''}"
ROOTFS_POSTPROCESS_COMMAND += "${@'install_guest' if d.getVar('XEN_DMABUF_GUEST_IMAGE') else ''}"
install_guest[doc] = "Puts the guest's file system and kernel where its xl configuration looks."
# Under the names that xen-dmabuf-guest's domu.cfg has. What fills a partition is the image's wks file.
install_guest() {
    images=${IMAGE_ROOTFS}${localstatedir}/lib/xen/images
    install -d $images
    case ${XEN_DMABUF_GUEST_DISK} in
    /dev/*) ;;
    *)
        install -d $(dirname ${IMAGE_ROOTFS}${XEN_DMABUF_GUEST_DISK})
        cp --sparse=always \
            ${DEPLOY_DIR_IMAGE}/${XEN_DMABUF_GUEST_IMAGE}${IMAGE_MACHINE_SUFFIX}${IMAGE_NAME_SUFFIX}.ext4 \
            ${IMAGE_ROOTFS}${XEN_DMABUF_GUEST_DISK}
        ;;
    esac
    install -m 0644 ${DEPLOY_DIR_IMAGE}/${KERNEL_IMAGETYPE} $images/domu-kernel
}

require recipes-core/images/xen-dmabuf-image-dom0-qemu.inc
require recipes-core/images/xen-dmabuf-image-dom0-imx8qm.inc

# What testimage runs: lib/oeqa/runtime/cases beside the layer.
XEN_DMABUF_TEST_SUITES ?= "${@xen_dmabuf_layer.sources.runtime_cases(d.getVar('XEN_DMABUF_ROOT'))}"
XEN_DMABUF_TEST_SUITES[doc] = "Runtime cases of meta-xen-dmabuf that testimage runs besides ping and ssh."
TEST_SUITES = "ping ssh ${XEN_DMABUF_TEST_SUITES}"
