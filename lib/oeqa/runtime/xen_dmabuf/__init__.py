# SPDX-License-Identifier: MIT
"""What the cases of meta-xen-dmabuf share. `case.XenDmabufCase` is their base."""
