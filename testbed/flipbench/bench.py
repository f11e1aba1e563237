# SPDX-License-Identifier: MIT
"""The command: measure the rows that aren't measured yet, write tables and plots."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from .. import layout, machine
from ..cache import say
from . import document, plot, results
from .machine import booted
from .results import Result
from .rows import Row, rows, select

DOCS = layout.REPOSITORY / "docs"
HELP = """\
Boots a machine whose clock counts instructions, has DomUs flip, and says for each row what a flip cost. A row's name is
STRATEGY-RENDERER-SIZE and, where it isn't one, how many DomUs and connectors, and flips a second; without, it flips as
fast as it is answered. A row that was measured with the same backend, kernels and programs is not measured again.
"""
EPILOG = """\
examples:
  flip-bench                      all rows; "--list" names them
  flip-bench 'map-gl-*x*'         one strategy and renderer in all sizes
  flip-bench map-gl-640x480 copy-pixman-640x480 --again
                                  two rows, also if they were measured
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Teach the command line."""
    command.description = HELP
    command.epilog = EPILOG
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("rows", nargs="*", metavar="ROW", help="names of rows or patterns of them (default: all)")
    command.add_argument("--list", action="store_true", help="name the rows and end")
    command.add_argument("--again", action="store_true", help="measure rows again that were measured")
    command.add_argument("--docs", action="store_true", help="write the tables and plots of docs/performance.md, too")


def _line(result: Result) -> str:
    figures = result.figures
    return (
        f"{result.row.name}: {figures.worker:.3f} M instructions a flip (Weston {figures.weston:.2f} M), "
        f"{figures.rate:.1f} flips/s, {figures.shown} of {figures.flips} shown, {figures.latency:.2f} ms"
    )


def measure(folder: Path, wanted: list[Row], again: bool = False) -> list[Result]:
    """Results of those rows, in their order; boots only if one has to be measured. ``folder`` keeps them."""
    images = machine.build()
    key = results.key(images)
    known = {row: None if again else results.read(folder / "rows", row) for row in wanted}
    found = {row: result for row, result in known.items() if result and result.key == key}
    for result in found.values():
        say(f"kept: {_line(result)}")
    missing = [row for row in wanted if row not in found]
    if missing:
        with booted(images, folder) as bench:
            for number, row in enumerate(missing, 1):
                started = time.monotonic()
                found[row] = Result(row, results.commit(), key, bench.measure(row))
                results.write(folder / "rows", found[row])
                say(f"{number} of {len(missing)}, {time.monotonic() - started:.0f} s: {_line(found[row])}")
    return [found[row] for row in wanted]


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """The command. Raises TestbedError and ProofError."""
    wanted = select(arguments.rows)
    if arguments.list:
        print("\n".join(row.name for row in wanted))
        return
    measure(folder, wanted, arguments.again)
    # what earlier runs have measured belongs to the table, too; it says of which commit it is
    kept = [result for row in rows() if (result := results.read(folder / "rows", row))]
    text = document.tables(kept)
    (folder / "bench.md").write_text(text, encoding="utf-8")
    (folder / "bench.json").write_text(json.dumps([r.plain() for r in kept], indent=1) + "\n", encoding="utf-8")
    plots = plot.plots(kept)
    for name, picture in plots.items():
        (folder / name).write_text(picture, encoding="utf-8")
    if arguments.docs:
        links = "".join(f"\n![{name.removesuffix('.svg')}](pictures/{name})\n" for name in plots)
        document.rewrite(DOCS / "performance.md", text + links)
        for name, picture in plots.items():
            (DOCS / "pictures" / name).write_text(picture, encoding="utf-8")
    print(text)
