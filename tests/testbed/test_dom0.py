# SPDX-License-Identifier: MIT
"""What the image tests make of the answers of Dom0's programs; the target is the process edge."""

import re
from pathlib import Path

import pytest

from oeqa.runtime.xen_dmabuf import dom0

CASES = Path(dom0.__file__).parents[1]
IN_USE = "Journal file /run/log/journal/0123/system.journal is truncated, ignoring file.\n"
ARCHIVED = "Journal file /var/log/journal/0123/system@0006-5e88.journal~ is truncated, ignoring file.\n"
UNKNOWN = (
    "Journal file /var/log/journal/0123/user-1000@0006.journal uses an unsupported feature, ignoring file.\n"
    "Use SYSTEMD_LOG_LEVEL=debug journalctl --file=/var/log/journal/0123/user-1000@0006.journal to see the details.\n"
)
LINES = "liar: flips\nJournal file of mine is a line, too\nliar: flips"


class Journal:
    """A target whose journalctl gives one text after the other."""

    def __init__(self, *texts):
        self._texts = list(texts)

    def run(self, command, timeout):
        assert command.startswith("journalctl ") and command.endswith(" -u one")
        return 0, self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]


@pytest.mark.parametrize("lines", [LINES, ""])
@pytest.mark.parametrize("left_out", ["", ARCHIVED, UNKNOWN + ARCHIVED])
def test_the_journal_is_what_was_logged_only(left_out, lines):
    assert dom0.Dom0(Journal(left_out + lines)).journal("-u one") == lines


@pytest.mark.parametrize("first", [IN_USE, IN_USE + "liar: flips", ARCHIVED + IN_USE, IN_USE.strip()])
def test_a_journal_that_grows_just_then_is_read_again(first):
    assert dom0.Dom0(Journal(first, first, ARCHIVED + LINES)).journal("-u one") == LINES


def test_a_journal_that_stays_unreadable_is_named(monkeypatch):
    monkeypatch.setattr(dom0, "_JOURNAL_SECONDS", 0.1)
    with pytest.raises(
        AssertionError, match=r"journalctl -u one reads .*(?s:.)*/0123/system\.journal .*\n.* remove it"
    ):
        dom0.Dom0(Journal(IN_USE)).journal("-u one")


def test_no_case_reads_the_journal_by_itself():
    """Two others look at it until it has a line, or for a person: what is missing doesn't matter to them."""
    calls = {path.name: len(re.findall(r"journalctl [-_A-Z]", path.read_text())) for path in CASES.rglob("*.py")}
    used = {name: count for name, count in calls.items() if count}
    assert used == {"dom0.py": 2, "xen_dmabuf_backend.py": 1}, "Dom0.journal() reads it whole"
