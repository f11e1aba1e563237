require ${@bb.utils.contains('DISTRO_FEATURES', 'xen-dmabuf', 'xen-dmabuf-patches.inc', '', d)}
