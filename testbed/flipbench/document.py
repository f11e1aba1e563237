# SPDX-License-Identifier: MIT
"""Tables of the results in Markdown, and the part of docs/performance.md that they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from ..errors import TestbedError
from .figures import Figures
from .results import Result
from .rows import OUTPUTS

START, END = "<!-- made by flip-bench -->", "<!-- end of what flip-bench made -->"
Cell = Callable[[Figures], str]


def number(value: float, digits: int) -> str:
    """With so many decimals; a dash for what was not measured."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


COSTS: dict[str, Cell] = {
    "flips/s": lambda f: number(f.rate, 1),
    "worker": lambda f: f"**{number(f.worker, 3)}**",
    "memcpy": lambda f: number(f.memcpy, 3),
    "supervisor": lambda f: number(f.supervisor, 3),
    "kernel threads": lambda f: number(f.kernel, 3),
    "Weston": lambda f: number(f.weston, 2),
    "DomU": lambda f: number(f.domu, 3),
    "wakeups": lambda f: number(f.wakeups, 2),
    "system calls": lambda f: number(f.system_calls, 1),
}
"""Columns of the first table; all but the rate are a flip's."""
OTHERS: dict[str, Cell] = {
    "flips": lambda f: str(f.flips),
    "shown": lambda f: str(f.shown),
    "not shown": lambda f: str(f.not_shown),
    "latency, median": lambda f: number(f.latency, 2),
    "95 %": lambda f: number(f.latency_p95, 2),
    "local client": lambda f: number(f.local, 2),
    "PSS, MB": lambda f: number(f.pss, 1),
    "idle: M instructions/s": lambda f: number(f.idle_instructions, 3),
    "idle: wakeups/s": lambda f: number(f.idle_wakeups, 1),
}
STARTS: dict[str, Cell] = {
    "supervisor, ready": lambda f: number(f.start_supervisor, 0),
    "worker, screens": lambda f: number(f.start_worker, 0),
    "worker, first flip": lambda f: number(f.start_flip, 0),
}


def _table(results: list[Result], columns: dict[str, Cell]) -> str:
    lines = ["| row | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for result in results:
        cells = [cell(result.figures) for cell in columns.values()]
        lines.append(f"| {result.row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _measured(results: list[Result]) -> str:
    commits: dict[str, list[str]] = {}
    for result in results:
        commits.setdefault(result.commit, []).append(result.row.name)
    if len(commits) == 1:
        return f"All rows were measured of commit {next(iter(commits))}."
    return "Measured of " + "; ".join(f"commit {commit}: {', '.join(names)}" for commit, names in commits.items()) + "."


def tables(results: list[Result]) -> str:
    """What a flip cost, and what else was seen."""
    outputs = ", ".join(f"{width}×{height} with {renderer}" for renderer, (width, height) in OUTPUTS.items())
    return f"""{_measured(results)} A "+" after it: with changes that were not committed. Weston's output: {outputs}.

Millions of instructions a flip, and of the C library's memcpy for as large a picture; wakeups and system calls of the
worker, a flip:

{_table(results, COSTS)}

Flips; milliseconds from PAGE_FLIP to its event in the DomU, and from commit to frame callback in a local client;
memory of supervisor and workers, and what they do while a picture is held, in the quietest of three spans:

{_table(results, OTHERS)}

Millions of instructions of a process from its fork until it is ready, its DomU has its screens, and its DomU's first
flip is answered:

{_table(results, STARTS)}
"""


def rewrite(file: Path, text: str) -> None:
    """Put the text between the marks of a document. TestbedError if it has none."""
    before, start, rest = file.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise TestbedError(f'{file}: no lines "{START}" and "{END}"; put them where the tables go')
    file.write_text(f"{before}{START}\n{text}{END}{after}", encoding="utf-8")
