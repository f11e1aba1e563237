# SPDX-License-Identifier: MIT
"""Parse-time helpers of meta-xen-dmabuf; bitbake imports them by addpylib.

Nothing here imports bitbake at module level, so that plain pytest can run it.
"""

BBIMPORTS = ["kernelconfig", "kernelseries", "sanity", "sources", "xen"]
