# SPDX-License-Identifier: MIT
"""What the cases in lib/oeqa need of oe-core's oeqa, where oe-core isn't at hand: nothing but this base.

pytest collects and runs them as the unittest cases that they are. `make oe-test` runs the same files
by the real one.
"""

import unittest


class OERuntimeTestCase(unittest.TestCase):
    """``tc`` holds ``target`` and ``td`` as oeqa's test context does; tests/testbed/conftest.py sets it."""

    tc = None

    @property
    def td(self):
        """The image's test data: none."""
        return self.tc.td
