# SPDX-License-Identifier: MIT
"""What the cases in lib/oeqa need of oe-core's oeqa, where oe-core isn't at hand: nothing but this base.

They are unittest's cases: unittest runs them (testbed/evidence.py), or pytest. `make oe-test` runs the same files
by the real one.
"""

from __future__ import annotations

import unittest
from typing import Any


class OERuntimeTestCase(unittest.TestCase):
    """``tc`` holds ``target`` and ``td`` as oeqa's test context does; who runs a case sets it."""

    tc: Any = None

    @property
    def td(self) -> Any:
        """The image's test data."""
        return self.tc.td
