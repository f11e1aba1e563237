require ${@bb.utils.contains('DISTRO_FEATURES', 'xen-dmabuf', 'linux-xen-dmabuf-imx.inc', '', d)}
