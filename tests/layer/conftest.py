# SPDX-License-Identifier: MIT
"""What the layer's tests share.

OE_TREES   trees of OpenEmbedded (see oe_trees.py); without it the tests that
           need bitbake are skipped, and the summary says so.
OE_RELEASES  of which releases they are; default: wrynose and scarthgap.
OE_BUILD   where their build folders go; default: a temporary folder.
"""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def trees():
    """The folder OE_TREES names."""
    if "OE_TREES" not in os.environ:
        pytest.skip("OE_TREES is not set")
    return Path(os.environ["OE_TREES"]).resolve()


def pytest_terminal_summary(terminalreporter):
    if "OE_TREES" not in os.environ:
        terminalreporter.section("OE_TREES is not set", yellow=True, bold=True)
        terminalreporter.line(
            "NOT RUN: bitbake parse, dry runs of both images, yocto-check-layer. "
            "docs/testing.md says how to get the trees and run them (make oe-check)."
        )
