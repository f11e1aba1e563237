require ${@bb.utils.contains('DISTRO_FEATURES', 'xen-dmabuf', 'recipes-kernel/linux/linux-xen-dmabuf.inc', '', d)}
