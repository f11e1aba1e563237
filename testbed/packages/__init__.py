# SPDX-License-Identifier: MIT
"""The product out of packages that bitbake built: ``make layer-demo``, or any command with XEN_DMABUF_PACKAGES."""

from .product import Packages

__all__ = ["Packages"]
