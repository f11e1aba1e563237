# SPDX-License-Identifier: MIT
"""The input protocol of xen/io/kbdif.h: numbers, events, the shared page. Pure, importable anywhere."""
