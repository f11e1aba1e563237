# SPDX-License-Identifier: MIT
"""A million hostile inputs: half with seeds that stay, half with others each time; `make fuzz` does more."""

from __future__ import annotations

import os
import random
import signal

import pytest
from fuzz import sanitized
from fuzz.__main__ import SHARES, TARGETS, fuzz
from fuzz.background import INPUTS, SEEDS
from fuzz.base import Failure, Target

from xen_dmabuf.pump import lib


@pytest.mark.beside
@pytest.mark.parametrize("name", list(SEEDS))
def test_hostile_inputs(name, beside):
    """Where there are tests of the testbed, conftest has begun it before them."""
    assert beside(name).end() >= INPUTS


def test_flips_in_c_under_sanitizers():
    if lib is None:
        pytest.skip("LOUD: xen_dmabuf.pump._pump is not built; flips in C are NOT tested")
    if missing := sanitized.missing():
        pytest.skip(f"LOUD: {missing}; flips in C are NOT tested under sanitizers")
    done = sanitized.run(["--inputs", "30000", "--seed", str(SEEDS["random"])])
    print(done.stdout)
    assert done.returncode == 0, done.stdout


def test_targets_leave_nothing_to_each_other():
    """They have one process in turn, and C has globals: a fault would end this one."""
    for seed in range(1, 40):
        for target in TARGETS.values():
            assert target().session(random.Random(seed)) >= 0


def test_a_failure_says_how_to_repeat_it():
    class Wrong(Target):
        name = "wrong"

        def session(self, chance):
            raise ValueError("no")

    with pytest.raises(Failure, match=r"(?s)target wrong, seed 5: .*make fuzz TARGET=wrong SEED=5 N=1"):
        Wrong().run(5, 1)


def test_a_process_that_dies_says_so_too(monkeypatch):
    """A fault in a library, a signal: nobody raises anything."""

    class Deadly(Target):
        name = "deadly"

        def session(self, chance):
            if chance.random() < 0.01:
                os.kill(os.getpid(), signal.SIGBUS)
            return 1

    monkeypatch.setitem(TARGETS, "deadly", Deadly)
    monkeypatch.setitem(SHARES, "deadly", 1.0)
    _done, (failure, *_others) = fuzz(["deadly"], 1, 2000, 1)
    seed = next(seed for seed in range(1, 2000) if random.Random(seed).random() < 0.01)
    assert f"make fuzz TARGET=deadly SEED={seed} N=1" in failure
