# SPDX-License-Identifier: MIT
"""Which packages belong together, in what order they are installed, and what is missing."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..errors import TestbedError
from .debs import HOW, Deb

_RELATION = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]*)(?::any)?(?: \((?P<operator><<|<=|=|>=|>>) (?P<version>[^)]+)\))?"
)


@dataclass(frozen=True)
class Selection:
    """What a root gets: packages, each after those that it depends on, and names that others stand in for."""

    debs: Sequence[Deb]
    stand_ins: Sequence[str]


def select(wanted: Sequence[str], debs: Mapping[str, Deb], stand_ins: Collection[str]) -> Selection:
    """The wanted packages with all that they depend on.

    ``stand_ins`` are names of which any version will do. Raises TestbedError that names the package and what it
    depends on: nothing provides it, or it is in conflict with another one.
    """
    chosen: dict[str, Deb] = {}
    outside: set[str] = set()

    def add(name: str, because: str) -> None:
        if name in chosen:
            return
        if name not in debs:
            raise TestbedError(f"{because}, which is no package here; {HOW}")
        deb = chosen[name] = debs[name]
        for depends in [*deb.words("Pre-Depends"), *deb.words("Depends")]:
            found = _provider(depends, debs, stand_ins)
            if found is None:
                raise TestbedError(
                    f'package "{name}" depends on "{depends}", which no package here is or provides: build it with '
                    "the others, or say in testbed/packages/standins.py what of the guests' Debian stands in for it"
                )
            if found in debs:
                add(found, f'"{name}" depends on "{found}"')
            else:
                outside.add(found)
        chosen[name] = chosen.pop(name)  # after what it depends on

    for name in wanted:
        add(name, f'the guests want "{name}"')
    _refuse_conflicts(chosen)
    return Selection(list(chosen.values()), sorted(outside))


def _provider(depends: str, debs: Mapping[str, Deb], stand_ins: Collection[str]) -> str | None:
    """The name of the package or stand-in that fulfils a dependency with its alternatives ("a (>= 1) | b")."""
    for alternative in depends.split("|"):
        relation = _relation(alternative)
        for deb in debs.values():
            if _fulfils(deb, relation):
                return deb.name
        if relation["name"] in stand_ins:
            return relation["name"]
    return None


def _relation(text: str) -> dict[str, str]:
    found = _RELATION.fullmatch(text.strip())
    if not found:
        raise TestbedError(f'"{text.strip()}" is no dependency as packages have it; {HOW}')
    return found.groupdict(default="")


def _fulfils(deb: Deb, relation: dict[str, str]) -> bool:
    """Whether a package is, or provides, what a relation names, in a version that it takes."""
    offers = {deb.name: deb.version}
    for text in deb.words("Provides"):
        provided = _relation(text)
        offers.setdefault(provided["name"], provided["version"])
    version = offers.get(relation["name"])
    if version is None:
        return False
    return not relation["operator"] or bool(version) and _compares(version, relation["operator"], relation["version"])


def _compares(version: str, operator: str, other: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", version, operator, other], check=False).returncode == 0


def _refuse_conflicts(chosen: Mapping[str, Deb]) -> None:
    for deb in chosen.values():
        for conflict in deb.words("Conflicts"):
            relation = _relation(conflict)
            for other in chosen.values():
                if other is not deb and _fulfils(other, relation):
                    raise TestbedError(f'packages "{deb.name}" and "{other.name}" are in conflict: leave one out')
