# SPDX-License-Identifier: MIT
#
# For a recipe whose source is a folder of this repository:
#
#   XEN_DMABUF_SOURCE = "backend"
#   inherit xen_dmabuf_source
#
# SRC_URI becomes that folder's files, S the unpacked folder. The files are taken
# as they are in the clone, so the backend, the layer and the kernel patches that
# are built together always belong together.

XEN_DMABUF_SOURCE[doc] = "The folder of the repository that the recipe builds, relative to its root."

FILESEXTRAPATHS:prepend := "${XEN_DMABUF_ROOT}:"
SRC_URI = "${@xen_dmabuf_layer.sources.uris(d, d.getVar('XEN_DMABUF_SOURCE'))}"

# scarthgap has no UNPACKDIR yet.
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}/${XEN_DMABUF_SOURCE}"
