# SPDX-License-Identifier: MIT
#
# Inherited by conf/layer.conf. Without the word "xen-dmabuf" in DISTRO_FEATURES
# it does nothing. With it, it sets the defaults in conf/include/xen_dmabuf.inc
# and stops with a sentence where the configuration cannot work:
#
#   XEN_DMABUF_SKIP_SANITY = "1"    goes on all the same

XEN_DMABUF_SKIP_SANITY[doc] = "Set to 1 to build with a configuration that meta-xen-dmabuf refuses."

require ${@bb.utils.contains('DISTRO_FEATURES', 'xen-dmabuf', 'conf/include/xen_dmabuf.inc', '', d)}

addhandler xen_dmabuf_sanity
xen_dmabuf_sanity[doc] = "Stops with a sentence for each setting that cannot work."
xen_dmabuf_sanity[eventmask] = "bb.event.SanityCheck"
python xen_dmabuf_sanity() {
    if e.data.getVar('XEN_DMABUF_SKIP_SANITY') == '1':
        return
    problems = xen_dmabuf_layer.sanity.problems(e.data)
    if problems:
        bb.fatal('meta-xen-dmabuf: ' + '\nmeta-xen-dmabuf: '.join(problems))
}

addhandler xen_dmabuf_explain_no_gbm
xen_dmabuf_explain_no_gbm[doc] = "Says which variable names the GPU's libgbm."
xen_dmabuf_explain_no_gbm[eventmask] = "bb.event.NoProvider"
python xen_dmabuf_explain_no_gbm() {
    problem = xen_dmabuf_layer.sanity.missing_provider(e.data, e.getItem())
    if problem:
        bb.error('meta-xen-dmabuf: ' + problem)
}

addhandler xen_dmabuf_unpatched_kernel
xen_dmabuf_unpatched_kernel[doc] = "Stops where the build's kernel recipe is none that gets the patches."
xen_dmabuf_unpatched_kernel[eventmask] = "bb.event.RecipeParsed"
python xen_dmabuf_unpatched_kernel() {
    if e.data.getVar('XEN_DMABUF_SKIP_SANITY') == '1':
        return
    problem = xen_dmabuf_layer.sanity.unpatched_kernel(e.data)
    if problem:
        bb.fatal('meta-xen-dmabuf: ' + problem)
}
