# SPDX-License-Identifier: MIT
"""The page of a demo run."""

from html.parser import HTMLParser

from testbed.report import Proof, Report


class Page(HTMLParser):
    """Pictures that are side by side."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def handle_starttag(self, tag, attrs):
        words = dict(attrs)
        if tag == "div" and words.get("class") == "beside":
            self.rows.append([])
        elif tag == "img":
            self.rows[-1].append((words["alt"], words["src"]))


def test_what_belongs_together_is_side_by_side(tmp_path):
    pictures = [[("drawn <1>", "drawn.png"), ("shown", "shown.png")], [("moving", "moving.webp")]]
    Report("machine", proofs=[Proof("claim", True, "seen", 1.0)], pictures=pictures).write(tmp_path)
    page = Page()
    page.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.rows == pictures
