# SPDX-License-Identifier: MIT
"""Dom0 backend of Xen's para-virtual display protocol (xen/io/displif.h).

One process, the supervisor, reads XenStore; one unprivileged process per DomU, the worker,
maps the DomU's pages and shows them in the Wayland compositor. See docs/protocol.md and
docs/security.md.
"""

__version__ = "0.1.0"
