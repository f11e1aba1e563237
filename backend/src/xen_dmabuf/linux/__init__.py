# SPDX-License-Identifier: MIT
"""System calls and C libraries of Linux that Python has no module for; nothing of Xen."""
