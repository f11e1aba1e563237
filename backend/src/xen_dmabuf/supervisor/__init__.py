# SPDX-License-Identifier: MIT
"""The process that serves XenStore, as root: handshakes and units. Opens no device, draws nothing."""
