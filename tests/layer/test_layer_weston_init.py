# SPDX-License-Identifier: MIT
"""The testbed starts Weston as oe-core's weston-init does: the settings of its units and PAM service are the same."""

import re

import pytest
from oe_trees import CHECKED

from testbed import layout

UNITS = layout.WESTON_INIT / "usr/lib/systemd/system"
PAM = layout.WESTON_INIT / "etc/pam.d/weston-autologin"
FOLDER = "openembedded-core/meta/recipes-graphics/wayland/weston-init"
VALUES = {"bindir": "/usr/bin", "runtimedir": "/run", "WESTON_USER": "weston", "WESTON_USER_HOME": "/home/weston"}
# Of words, an empty file, a splash screen that neither has, and where sockets are
NO_MATTER = {"Description", "Documentation", "EnvironmentFile", "RequiresMountsFor"}
ABSENT = {"plymouth-quit-wait.service"}


def settings(text):
    """(section, key, word) of each word that a unit's settings have."""
    found, section = set(), ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif setting := re.fullmatch(r"(\w+)=(.*)", line):
            found |= {(section, setting[1], word) for word in setting[2].split()}
    return {(section, key, word) for section, key, word in found if key not in NO_MATTER and word not in ABSENT}


def of_oe_core(text):
    for name, value in VALUES.items():
        text = text.replace(f"@{name}@", value)
    return settings(text)


@pytest.mark.parametrize("release", CHECKED)
@pytest.mark.parametrize("unit", ["weston.service", "weston.socket"])
def test_units_have_the_same_settings(unit, release, trees):
    theirs = of_oe_core((trees / release / FOLDER / unit).read_text())
    assert len(theirs) > 5
    assert settings((UNITS / unit).read_text()) == theirs


def rules(text):
    """(kind, module) of each line of a PAM service."""
    lines = (line.split() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return [(words[0].lstrip("-"), words[2], *words[3:]) for words in lines]


@pytest.mark.parametrize("release", CHECKED)
def test_pam_service_opens_the_same_session(release, trees):
    """pam_loginuid, optional there, only tells audit."""
    theirs = rules((trees / release / FOLDER / "weston-autologin").read_text())
    assert [rule for rule in rules(PAM.read_text()) if rule[0] == "session"] == [
        rule for rule in theirs if rule[0] == "session" and rule[1] != "pam_loginuid.so"
    ]
