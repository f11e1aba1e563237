# SPDX-License-Identifier: MIT
"""The command xen-dmabuf-backend."""
