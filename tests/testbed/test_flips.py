# SPDX-License-Identifier: MIT
"""The short form of `make flip-bench`: a flip costs no more instructions than it did, and each one is shown.

Instructions are counted, so what else the host does changes nothing. No seconds are asked for.
"""

import pytest

from testbed.flipbench import bench
from testbed.flipbench.bounds import MARGIN, MEASURED, STARTS, bound
from testbed.flipbench.rows import select
from testbed.layout import REPOSITORY

pytestmark = pytest.mark.testbed


@pytest.fixture(scope="module")
def measured():
    """Row name -> result, measured now, on a machine of their own."""
    wanted = select(list(MEASURED))
    results = bench.measure(REPOSITORY / "build" / "test-flips", wanted, again=True)
    return {result.row.name: result for result in results}


@pytest.mark.parametrize("row", MEASURED)
def test_a_flip_costs_no_more_instructions_than_it_did(measured, row):
    cost = measured[row].figures.worker
    assert 0 < cost <= bound(row), f"a flip of {row} costs {cost:.3f} M instructions"


@pytest.mark.parametrize("row", STARTS)
def test_a_start_costs_no_more_instructions_than_it_did(measured, row):
    figures = measured[row].figures
    supervisor, worker = STARTS[row]
    assert 0 < figures.start_supervisor <= supervisor * MARGIN
    assert 0 < figures.start_worker <= figures.start_flip <= worker * MARGIN


def test_a_copy_costs_memcpy_beside_a_flip(measured):
    """So it copies once, and as fast as the C library does."""
    figures = measured["copy-pixman-640x480"].figures
    assert 0 < figures.memcpy < figures.worker <= figures.memcpy + bound("map-gl-640x480")


@pytest.mark.parametrize("row", MEASURED)
def test_every_counted_flip_was_shown(measured, row):
    figures = measured[row].figures
    assert (figures.shown, figures.not_shown) == (figures.flips, 0)
    assert measured[row].seen.strategies[0].split()[0] == measured[row].row.strategy


@pytest.mark.parametrize("row", MEASURED)
def test_a_held_picture_wakes_nobody(measured, row):
    """In the quietest of some spans of seconds: what systemd's watchdog hears isn't in each of them."""
    woken = measured[row].seen.idle.wakeups
    assert (woken["weston"], woken["worker"], woken["supervisor"]) == (0, 0, 0)
