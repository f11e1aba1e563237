# SPDX-License-Identifier: MIT
"""``make flip-bench``: what a DomU's page flip costs Dom0, in instructions."""
