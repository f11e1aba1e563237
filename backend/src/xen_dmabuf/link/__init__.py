# SPDX-License-Identifier: MIT
"""What supervisor and worker say to each other: the only thing that both know of each other."""
