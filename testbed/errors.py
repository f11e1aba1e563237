# SPDX-License-Identifier: MIT
"""Errors of the testbed; every message names the object and, after a colon or semicolon, the remedy."""


class TestbedError(Exception):
    """Something that the user can mend; the command line prints it as one sentence and exits with 2."""

    __test__ = False


class MissingSourceError(TestbedError):
    """A source package that Debian's archive does not hand out."""


class LostVMError(TestbedError):
    """QEMU or the guest went away. This is not a failed test: nothing was found out."""


class ProofError(AssertionError):
    """A claim about the product did not hold."""
