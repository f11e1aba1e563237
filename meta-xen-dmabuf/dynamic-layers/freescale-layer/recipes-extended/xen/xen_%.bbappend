require ${@bb.utils.contains('DISTRO_FEATURES', 'xen-dmabuf', 'xen-dmabuf-imx8qm.inc', '', d)}
