# SPDX-License-Identifier: MIT
"""For all tests beside the backend's: a run's results say which commit it ran on (tests/status.py reads it)."""

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def commit(record_testsuite_property):
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    record_testsuite_property("commit", done.stdout.strip() or "unknown")
