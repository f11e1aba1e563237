# SPDX-License-Identifier: MIT
"""The process of one DomU, unprivileged: maps its pages and shows them in the compositor."""
