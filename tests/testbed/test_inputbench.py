# SPDX-License-Identifier: MIT
"""What makes figures of what `make input-bench` saw, without a machine."""

import pytest

from testbed.errors import ProofError
from testbed.inputbench.figures import ABS_X, BUTTON, EV_ABS, EV_KEY, EVENT, KEY, Heard, latencies, line, load, offset


def events(*found):
    return b"".join(EVENT.pack(at // 10**6, at % 10**6, *rest) for at, *rest in found)


def test_the_fastest_answers_say_how_far_a_clock_is_ahead():
    found = offset([[9_000_000, 70], *([[2_000_000, 50]] * 6), *([[1_000_000, 40]] * 5)])
    assert found.ahead == 45 and found.wrong == 500_000


def test_a_place_is_waited_for_from_the_last_one_on():
    data = events((10, EV_ABS, ABS_X, 400), (20, EV_ABS, ABS_X, 0), (30, EV_ABS, 1, 400), (40, EV_ABS, ABS_X, 401))
    heard = Heard.of(data + b"half an event")
    assert heard.arrivals([0, 16400], 800) == [20_000, 40_000]
    assert heard.arrivals([16400, 0, 32000], 800) == [10_000, 20_000], "the last one never came"


def test_presses_and_releases_are_counted():
    heard = Heard.of(events((1, EV_KEY, BUTTON, 1), (2, EV_KEY, BUTTON, 0), (3, EV_KEY, KEY, 1)))
    assert heard.presses(BUTTON) == (1, 1) and heard.presses(KEY) == (1, 0)
    assert heard.keys(KEY) == [3_000]


def test_an_event_that_is_missing_is_no_figure():
    with pytest.raises(ProofError, match="keys: 2 in Dom0, 1 in the DomU"):
        latencies([1, 2], [3], 0, "keys")


def test_a_row_and_a_load():
    took = latencies([0, 10**7], [10**9 + 2 * 10**6, 10**9 + 30 * 10**6], 10**9, "keys")
    assert line("a key", took) == "| a key | 2 | 11.0 | 20.0 | 20.0 | 1 |"
    assert load({"passed": 200, "cpu": [50, 4]}) == (25, 2)
