# SPDX-License-Identifier: MIT
"""What tests/kernel_check.py is made of, one job a module."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "lib")]
