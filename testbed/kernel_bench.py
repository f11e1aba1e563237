# SPDX-License-Identifier: MIT
"""``make kernel-bench``: the ways to map a DomU's pages, measured side by side in one run."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from . import kernel, kernel_programs, machine
from .cache import say
from .guest import Dom0

PAGES = (1, 300, 2025, 8100)
"""One page; 640x480, 1920x1080 and 3840x2160 with 32 bits per pixel."""
BALLOON = "/sys/devices/system/xen_memory/xen_memory0"
SPARE_KIB = 64 << 10
WAYS = {
    "map-udmabuf": "MAP_REFS_TO_BUF, udmabuf",
    "map-system-heap": "MAP_REFS_TO_BUF, system heap",
    "export-dma": "EXP_FROM_REFS, DMA memory",
    "export": "EXP_FROM_REFS",
    "mmap": "MAP_GRANT_REF, mmap()",
    "no-grants": "(no grant: closing an udmabuf)",
}
COMPARED = 3
"""The first WAYS are compared with BASES."""
BASES = {"export": "EXP_FROM_REFS", "mmap": "MAP_GRANT_REF"}
CONDITIONS = {"empty": "balloon empty", "filled": "balloon filled"}
GAPS = {"idle": "nobody does anything", **WAYS}
"""Ways for which it is measured how long another CPU gets nothing done."""
LINE = re.compile(r"^(\S+) (\d+) (\d+) (\d+) (\d+)$", re.M)
"""What gntdev_bench prints: way, pages, round, nanoseconds to map and to let go."""


@dataclass(frozen=True)
class Row:
    """Medians of one way with one number of pages. Times in microseconds per page."""

    balloon: str
    pages: int
    way: str
    map: float
    release: float
    rounds: int

    @property
    def total(self) -> float:
        """Map and release."""
        return self.map + self.release


def parse(balloon: str, output: str) -> list[Row]:
    """Medians of what gntdev_bench printed."""
    times: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
    for way, pages, _round, mapping, release in LINE.findall(output):
        times[int(pages), way].append((int(mapping), int(release)))
    return [
        Row(
            balloon,
            pages,
            way,
            median(m for m, _ in runs) / pages / 1e3,
            median(r for _, r in runs) / pages / 1e3,
            len(runs),
        )
        for (pages, way), runs in sorted(times.items())
    ]


def table(rows: list[Row]) -> str:
    """Markdown: map and release of each way, divided by those of EXP_FROM_REFS and MAP_GRANT_REF."""
    found = {(row.balloon, row.pages, row.way): row for row in rows}
    lines = [
        "| balloon | way | ÷ | " + " | ".join(f"{pages:,}" for pages in PAGES) + " pages |",
        "|---|---|---|" + "--:|" * len(PAGES),
    ]
    for balloon in CONDITIONS:
        for way, words in list(WAYS.items())[:COMPARED]:
            for base, base_words in BASES.items():
                cells = [_ratio(found.get((balloon, pages, way)), found.get((balloon, pages, base))) for pages in PAGES]
                lines.append(f"| {balloon} | {words} | {base_words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(row: Row | None, base: Row | None) -> str:
    return f"{row.total / base.total:.2f}" if row and base else "–"


def times(rows: list[Row]) -> str:
    """Markdown: map + release of each way in microseconds per page."""
    found = {(row.balloon, row.pages, row.way): row for row in rows}
    lines = [
        "| balloon | way | " + " | ".join(f"{pages:,}" for pages in PAGES) + " pages |",
        "|---|---|" + "--:|" * len(PAGES),
    ]
    for balloon in CONDITIONS:
        for way, words in WAYS.items():
            cells = [found.get((balloon, pages, way)) for pages in PAGES]
            lines.append(
                f"| {balloon} | {words} | "
                + " | ".join(f"{row.map:.1f} + {row.release:.1f}" if row else "–" for row in cells)
                + " |"
            )
    return "\n".join(lines)


def gaps(output: str) -> str:
    """Markdown: for how long another CPU did nothing during map and release, median and worst, in microseconds."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for way, pages, _round, mapping, release in LINE.findall(output):
        found[way, int(pages)].append((int(mapping), int(release)))
    lines = ["| way | pages | map: median, worst | release: median, worst |", "|---|--:|--:|--:|"]
    for way, words in GAPS.items():
        for pages in sorted(pages for known, pages in found if known == way):
            spans = zip(*found[way, pages], strict=True)
            cells = [f"{median(span) / 1e3:,.0f}, {max(span) / 1e3:,.0f}" for span in spans]
            lines.append(f"| {words} | {pages:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spare(dom0: Dom0, kib: int) -> None:
    """Have Dom0's balloon hold so much memory that gntdev needn't make room for grants itself."""
    # Dom0's share of Xen's memory at boot is what it may grow to again
    dom0.run(
        f"cd {BALLOON}; test -e /run/full_kb || cat target_kb > /run/full_kb; "
        f"echo $(( $(cat /run/full_kb) - {kib} )) > target_kb; "
        "until [ $(cat info/current_kb) -le $(cat target_kb) ]; do :; done"
    )


def run(folder: Path) -> list[Row]:
    """Boot, measure, write bench.json, bench.md and what was printed. Raises ProofError if the program fails."""
    images = machine.build()
    built = kernel.build()
    rows: list[Row] = []
    with machine.boot(images, folder) as (_, dom0):
        program = kernel_programs.install(dom0, built, "gntdev_bench")
        dom0.run("systemctl stop weston.socket weston xen-dmabuf-backend")
        for balloon, words in CONDITIONS.items():
            _spare(dom0, SPARE_KIB if balloon == "filled" else 0)
            output = ""
            for pages in PAGES:
                say(f"measuring, {words}, {pages} pages")
                output += dom0.run(f"{program} {pages}", timeout=900)
            (folder / f"{balloon}.txt").write_text(output, encoding="utf-8")
            rows += parse(balloon, output)
        say("measuring for how long another CPU stands still")
        stood = dom0.run(f"{program} -g {' '.join(map(str, PAGES[1:]))}", timeout=900)
        (folder / "gaps.txt").write_text(stood, encoding="utf-8")
    (folder / "bench.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    text = (
        f"Map and release, as ratios:\n\n{table(rows)}\n\nMap + release, microseconds per page:\n\n{times(rows)}"
        f"\n\nWhile it lasts, another CPU does nothing for so many microseconds at the longest:\n\n{gaps(stood)}"
    )
    (folder / "bench.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return rows
