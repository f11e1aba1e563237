# SPDX-License-Identifier: MIT
"""Xen's devices: grants and event channels of one other domain, as objects that are closed."""
