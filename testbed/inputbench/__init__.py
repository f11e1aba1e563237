# SPDX-License-Identifier: MIT
"""``make input-bench``: how long an input event takes to a DomU, and what input costs in Dom0."""
