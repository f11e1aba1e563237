# SPDX-License-Identifier: MIT
"""requirements.txt locks what requirements.in asks for; pip itself refuses an entry without a hash."""

from __future__ import annotations

import re

from testbed import layout


def names(text: str) -> set[str]:
    """The projects that a requirements file names, as PyPI spells them."""
    found = re.findall(r"(?m)^([A-Za-z][\w.-]*)", text)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def test_everything_asked_for_is_locked():
    asked = names((layout.REPOSITORY / "requirements.in").read_text())
    locked = (layout.REPOSITORY / "requirements.txt").read_text()
    assert asked and asked <= names(locked), 'run "make requirements"'
    assert names(locked) == names("\n".join(re.findall(r"(?m)^\S+==\S+ \\$", locked))), "without a version"
