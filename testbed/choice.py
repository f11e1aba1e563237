# SPDX-License-Identifier: MIT
"""Variants of the testbed, chosen by the environment."""

from __future__ import annotations

import os
from collections.abc import Collection

from .errors import TestbedError


def chosen(variable: str, values: Collection[str], default: str) -> str:
    """The value of an environment variable that may only be one of ``values``; unset or empty is the default.

    Raises TestbedError naming the variable, its value and what it may be.
    """
    value = os.environ.get(variable) or default
    if value not in values:
        raise TestbedError(f'{variable}="{value}" is not known: set it to {" or ".join(values)} (default: {default})')
    return value
