# SPDX-License-Identifier: MIT
"""The protocol of xen/io/displif.h, pure: bytes, numbers and shared pages, but no device."""
