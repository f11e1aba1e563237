# SPDX-License-Identifier: MIT
"""Did a kernel's .config take what a fragment asks for?"""

from __future__ import annotations

import re

_SET = re.compile(r"^(CONFIG_\w+)=(.+)$")
_UNSET = re.compile(r"^# (CONFIG_\w+) is not set$")


def parse(text: str) -> dict[str, str]:
    """Return {symbol: value} of a .config or a fragment; "n" for an unset one."""
    values = {}
    for line in text.splitlines():
        if match := _SET.match(line.strip()):
            values[match[1]] = match[2]
        elif match := _UNSET.match(line.strip()):
            values[match[1]] = "n"
    return values


def unmet(config: str, fragments: dict[str, str]) -> list[str]:
    """Return a line for each symbol that .config does not have as asked for.

    :param config: the text of the .config.
    :param fragments: {name: text} of the fragments.
    """
    have = parse(config)
    return [
        f"{name}: {symbol} is {have.get(symbol, 'n')}, wanted {value}"
        for name, text in sorted(fragments.items())
        for symbol, value in parse(text).items()
        if have.get(symbol, "n") != value
    ]
