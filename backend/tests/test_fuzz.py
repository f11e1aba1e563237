# SPDX-License-Identifier: MIT
"""A million hostile inputs: half with seeds that stay, half with others each time; `make fuzz` does more."""

from __future__ import annotations

import os
import random

import pytest
from fuzz.__main__ import TARGETS, fuzz
from fuzz.base import Failure, Target

INPUTS = 500_000


@pytest.mark.parametrize("seed", [1, None], ids=["fixed", "random"])
def test_hostile_inputs(seed):
    seed = random.randrange(1 << 32) if seed is None else seed
    print(f"seed {seed}")
    done, failures = fuzz(list(TARGETS), seed, INPUTS, os.cpu_count() or 1)
    assert not failures, "\n".join(failures)
    assert done >= INPUTS


def test_a_failure_says_how_to_repeat_it():
    class Wrong(Target):
        name = "wrong"

        def session(self, chance):
            raise ValueError("no")

    with pytest.raises(Failure, match=r"(?s)target wrong, seed 5: .*make fuzz TARGET=wrong SEED=5 N=1"):
        Wrong().run(5, 1)
