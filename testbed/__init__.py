# SPDX-License-Identifier: MIT
"""A real Xen with a real Dom0 and DomUs on QEMU arm64, built from Debian's packages.

Everything that the feature consists of is taken from this repository: the kernel patches and
fragments, the backend package with its unit files, weston.ini, the xl configuration.
"""
