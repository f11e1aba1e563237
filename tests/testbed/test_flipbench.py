# SPDX-License-Identifier: MIT
"""What makes figures of a flip, tables and plots of what was measured, without a machine."""

import json
import math
import os
import pty
import shutil
import subprocess
import sys
import time
import tty
import xml.etree.ElementTree as ElementTree

import pytest

from testbed.errors import TestbedError
from testbed.flipbench import document, plot, programs, results
from testbed.flipbench.figures import figures
from testbed.flipbench.in_dom0 import MEMCPY_ROUNDS, DomU, Mark, MeasureError, Seen, Span, _memcpy
from testbed.flipbench.results import Result
from testbed.flipbench.rows import Row, rows, select

MS = 1_000_000


def seen(**changes) -> Seen:
    flipping = Span(
        cpu={"worker": 200 * MS, "supervisor": 2 * MS, "kernel": 10 * MS, "weston": 1000 * MS, "other": 0},
        wakeups={"worker": 300, "supervisor": 3, "weston": 200},
        domains={"Dom0": 1300 * MS, "DomUs": 40 * MS},
        passed=5100 * MS,
    )
    idle = Span(
        cpu={"worker": 4 * MS, "supervisor": 1 * MS, "weston": 7 * MS},
        wakeups={"worker": 8, "supervisor": 2, "weston": 5},
        domains={},
        passed=5000 * MS,
    )
    values = {
        "flips": 100,
        "shown": 99,
        "not_shown": 1,
        "flipping": flipping,
        "idle": idle,
        "clients": [
            [50, 4000 * MS, 60 * MS, 58 * MS, 70 * MS, 90 * MS],
            [50, 5000 * MS, 60 * MS, 59 * MS, 71 * MS, 91 * MS],
        ],
        "local": [40, 2000 * MS, 57 * MS, 56 * MS, 60 * MS, 61 * MS],
        "pss": {"worker": 20_000, "weston": 90_000, "supervisor": 10_000},
        "system_calls": -1,
        "copied": 0,
        "strategies": ["map gbm"],
        "start": {"supervisor": 600 * MS, "worker": 800 * MS, "flip": 840 * MS},
        "memcpy": 3 * MS,
    }
    return Seen(**{**values, **changes})


def test_an_instruction_takes_two_nanoseconds_and_costs_are_divided_by_flips():
    found = figures(seen())
    assert (found.worker, found.supervisor, found.kernel, found.weston) == (1.0, 0.01, 0.05, 5.0)
    assert found.domu == 0.2
    assert found.wakeups == 3
    assert (found.flips, found.shown, found.not_shown) == (100, 99, 1)


def test_the_rate_is_that_of_the_domu_that_was_ready_last():
    assert figures(seen()).rate == 20


def test_the_latency_is_that_of_the_slowest_domu():
    found = figures(seen())
    assert (found.latency, found.latency_p95, found.local) == (59, 71, 56)


def test_idle_counts_only_the_backend():
    found = figures(seen())
    assert found.idle_instructions == 0.5  # million a second: 5 ms of 5 s
    assert found.idle_wakeups == 2
    assert found.pss == pytest.approx(30.72)


def test_starts_are_in_millions_and_memcpy_stands_beside_copies_only():
    found = figures(seen(copied=1))
    assert (found.start_supervisor, found.start_worker, found.start_flip, found.memcpy) == (300, 400, 420, 1.5)
    assert math.isnan(figures(seen()).memcpy)
    old = figures(seen(start={}, memcpy=0, copied=1))  # of a file that an older bench has written
    assert math.isnan(old.start_flip) and math.isnan(old.memcpy)


def test_memcpy_counts_one_copy():
    """By the clock of this process: all rounds and the warming up take longer than what is said for one."""
    begun = time.process_time_ns()
    one = _memcpy(1 << 24)
    assert 0 < one * MEMCPY_ROUNDS < time.process_time_ns() - begun


def test_what_was_not_measured_is_a_dash_and_no_number_in_json(tmp_path):
    result = Result(Row("map", "gl"), "0123456789", "key", seen(local=[]))
    lines = document.tables([result]).splitlines()
    assert "| map-gl-640x480 | 20.0 | **1.000** | – | 0.010 | 0.050 | 5.00 | 0.200 | 3.00 | – |" in lines
    assert "| map-gl-640x480 | 100 | 99 | 1 | 59.00 | 71.00 | – | 30.7 | 0.500 | 2.0 |" in lines
    assert "| map-gl-640x480 | 300 | 400 | 420 |" in lines
    results.write(tmp_path, result)
    kept = json.loads((tmp_path / "map-gl-640x480.json").read_text(), parse_constant=pytest.fail)
    assert kept["figures"]["local"] is None
    assert results.read(tmp_path, result.row) == result
    assert results.read(tmp_path, Row("copy", "gl")) is None


def test_the_table_says_which_row_is_of_which_commit():
    old, new = Result(Row("map", "gl"), "aaa", "key", seen()), Result(Row("copy", "gl"), "bbb", "key", seen())
    assert "All rows were measured of commit aaa." in document.tables([old])
    assert "Measured of commit aaa: map-gl-640x480; commit bbb: copy-gl-640x480." in document.tables([old, new])


def test_only_what_is_between_the_marks_is_rewritten(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(f"before\n{document.START}\nold\n{document.END}\nafter\n")
    document.rewrite(file, "new\n")
    assert file.read_text() == f"before\n{document.START}\nnew\n{document.END}\nafter\n"
    file.write_text("nothing")
    with pytest.raises(TestbedError, match="no lines"):
        document.rewrite(file, "new\n")


def test_plots_are_xml_the_same_each_time_and_as_long_as_their_values():
    drawn = plot.bars("a < b", ("x", "y"), [plot.Bar("one", (1.0, 1.0)), plot.Bar("two", (1.0, 0.0))], 1)
    assert drawn == plot.bars("a < b", ("x", "y"), [plot.Bar("one", (1.0, 1.0)), plot.Bar("two", (1.0, 0.0))], 1)
    space = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(drawn)
    widths = [float(r.get("width")) for r in root.iter(f"{space}rect")][1:-2]
    assert widths[0] == widths[1] == widths[2] > widths[3] == 0
    assert {"2.0", "1.0", "a < b"} <= {text.text for text in root.iter(f"{space}text")}
    assert set(plot.plots([Result(Row("map", "gl"), "aaa", "key", seen())])) == {"flip-cost.svg", "flip-latency.svg"}


def test_rows_have_names_of_their_own_and_are_found_by_patterns():
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)
    assert [row.name for row in select(["map-gl-640x480", "copy-pixman-*domus"])] == [
        "map-gl-640x480",
        "copy-pixman-640x480-2domus",
        "copy-pixman-640x480-4domus",
        "copy-pixman-640x480-8domus",
    ]
    assert select([]) == rows()
    with pytest.raises(TestbedError, match='no row is called "map-vulkan"'):
        select(["map-gl-*", "map-vulkan"])


CHILD = """
import sys, time
for line in sys.stdin:
    time.sleep(0.001)  # a voluntary switch for certain; reading may find the next line there already
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    print(flush=True)
"""


def test_marks_see_what_a_process_used_between_them():
    """The clocks of a real process: as much as it says itself that it used, and the times it slept."""
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:

        def work() -> None:
            child.stdin.write(b"\n")
            child.stdin.flush()
            child.stdout.readline()

        work()
        processes = {"worker": [child.pid], "weston": [], "supervisor": [], "kernel": [], "other": []}
        start = Mark(processes)
        for _ in range(3):
            work()
        span = start.until(Mark(processes))
        assert 0.15e9 <= span.cpu["worker"] < 0.3e9
        assert span.wakeups["worker"] >= 3
        child.stdin.close()
    with pytest.raises(MeasureError, match=f"process {child.pid} ended"):
        Mark(processes)


@pytest.fixture
def console():
    """(DomU, its console's other end), without any domain behind it."""
    theirs, ours = pty.openpty()
    tty.setraw(ours)
    domu = DomU.__new__(DomU)
    domu.name, domu._console, domu._heard = "flip0", ours, b""
    os.set_blocking(theirs, False)
    yield domu, theirs
    os.close(theirs)
    os.close(ours)


def test_a_domus_lines_are_heard_among_others(console):
    domu, theirs = console
    os.write(theirs, b"[    0.1] the kernel says\nflip: ready 2\nflip: do")
    assert domu.hear("ready", 5) == [2]
    os.write(theirs, b"ne 3 4 5 6 7 8\nflip: done 9\n")
    assert domu.hear("done", 5) == [3, 4, 5, 6, 7, 8]
    assert domu.hear("done", 5) == [9], "a line that came with the one before it"


def test_a_domu_that_fails_or_says_nothing_is_an_error(console):
    domu, theirs = console
    with pytest.raises(MeasureError, match="no word 'ready' within 0 s"):
        domu.hear("ready", 0)
    os.write(theirs, b"flip: failed PAGE_FLIP 16\n")
    with pytest.raises(MeasureError, match="failed PAGE_FLIP 16"):
        domu.hear("done", 5)


def test_the_initramfs_is_what_cpio_reads(tmp_path):
    archive = programs.initramfs(b"#!/bin/sh\n")
    assert shutil.which("cpio"), "cpio is one of the host packages"
    done = subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=tmp_path, capture_output=True, check=True)
    assert done.stderr == b""
    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "dev").is_dir()
