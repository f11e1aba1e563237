# SPDX-License-Identifier: MIT
"""The testbed starts Weston as oe-core's weston-init does: by the same units, PAM service and account."""

import re

import pytest
from oe_trees import CHECKED

from testbed import layout

UNITS = layout.WESTON_INIT / "usr/lib/systemd/system"
SYSUSERS = layout.WESTON_INIT / "usr/lib/sysusers.d/weston.conf"
PAM = layout.WESTON_INIT / "etc/pam.d/weston-autologin"
FOLDER = "openembedded-core/meta/recipes-graphics/wayland/weston-init"
VALUES = {"bindir": "/usr/bin", "runtimedir": "/run", "WESTON_USER": "weston", "WESTON_USER_HOME": "/home/weston"}
# Words; an empty file; a folder that is always there
NO_MATTER = {"Description", "Documentation", "EnvironmentFile", "RequiresMountsFor"}
# a splash screen, which no image of ours has
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
    """The words of each line of a PAM service, but for the sign that a module may be missing."""
    lines = (line.split() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return [(words[0].lstrip("-"), *words[1:]) for words in lines]


@pytest.mark.parametrize("release", CHECKED)
def test_pam_service_is_the_same(release, trees):
    """pam_loginuid, optional there, only tells audit."""
    theirs = rules((trees / release / FOLDER / "weston-autologin").read_text())
    assert len(theirs) > 5
    assert rules(PAM.read_text()) == [rule for rule in theirs if rule[2] != "pam_loginuid.so"]


@pytest.mark.parametrize("release", CHECKED)
def test_the_account_is_the_same(release, trees):
    """Of scarthgap's groups "seat" is none yet."""
    recipe = (trees / release / f"{FOLDER}.bb").read_text()
    for name in ("WESTON_USER_HOME", "WESTON_USER"):
        recipe = recipe.replace(f"${{{name}}}", VALUES[name])
    home, shell, groups = re.search(
        r'^USERADD_PARAM:\$\{PN\} = "--home (\S+) --shell (\S+) --user-group -G (\S+) weston"$', recipe, re.M
    ).groups()
    own = SYSUSERS.read_text()
    assert re.search(r'^u weston \d+ "[^"]*" (\S+) (\S+)$', own, re.M).groups() == (home, shell)
    assert set(re.findall(r"^m weston (\S+)$", own, re.M)) == {*groups.split(","), "seat"}
