# SPDX-License-Identifier: MIT
"""Write docs/status.md: the claims of docs/status.toml with the results of the last run of all tests.

python3 tests/status.py [JUNIT.XML [AGAIN.XML...]]    default: what `make test` has left, build/test/junit.xml
python3 tests/status.py --check    whether the page has the claims as they are now; before an hour of tests says so

AGAIN.XML: later runs of some of the tests. What they say counts, and the page says that there were some.

Exit status: 0 written, 1 another page would be, 2 there is no such run, or a claim is malformed.
"""

from __future__ import annotations

import re
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = ROOT / "docs/status.toml"
PAGE = ROOT / "docs/status.md"
RUN = ROOT / "build/test/junit.xml"
KEYS = {"claim", "tests", "by", "seen"}
OUTCOMES = ("held", "failed", "skipped")

HEAD = """<!-- SPDX-License-Identifier: MIT -->
<!-- Made by "make status" of docs/status.toml and a run of all tests: change that file, not this one. -->
# Status

Each claim with what shows it. "Last run" counts the tests that `docs/status.toml` names for the claim, in
{run}.
Tests below `tests/testbed` ran on Xen 4.20 with Debian's 6.12, the kernel series, and Weston 14 with llvmpipe, in QEMU
without KVM; those of `backend/tests` ran on the host. Where no test of `make test` shows a claim, the command is named,
and what was seen with it. [not-verified.md](not-verified.md) tells what nobody could run, what failed, and what was
seen once.
"""


@dataclass(frozen=True)
class Run:
    """Results of a run: what happened to each test, by the dotted name that JUnit has; when, on which commit."""

    results: dict[str, str]
    date: str
    commit: str
    later: tuple[Run, ...] = ()

    def then(self, later: Run) -> Run:
        """With what a later run of some of the tests says."""
        return Run({**self.results, **later.results}, self.date, self.commit, (*self.later, later))

    def count(self, tests: Iterable[str]) -> Counter[str]:
        """How many tests below the named ones had which outcome; a test below two of them counts once."""
        found = {name for test in tests for name in self.results if is_below(name, test)}
        return Counter(self.results[name] for name in found)

    def __str__(self) -> str:
        total = Counter(self.results.values())
        again = "".join(f"; {len(run.results)} of them again on commit {run.commit}" for run in self.later)
        counts = ", ".join(f"{total[key]} {key}" for key in OUTCOMES)
        return f"the run of {self.date} on commit {self.commit} ({counts}{again})"


def is_below(name: str, test: str) -> bool:
    """Whether a JUnit name is that test, or one of that class, file or folder."""
    dotted = re.sub(r"\.py\b", "", test).replace("/", ".").replace("::", ".")
    return name == dotted or name.startswith((f"{dotted}.", f"{dotted}["))


def outcome(case: ElementTree.Element) -> str:
    """One of OUTCOMES. An error in a fixture is a failure."""
    tags = {child.tag for child in case}
    if tags & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in tags else "held"


def read_run(path: Path) -> Run:
    """The results in a JUnit file of pytest. Raises OSError and ElementTree.ParseError."""
    root = ElementTree.parse(path).getroot()
    suite = root if root.tag == "testsuite" else root.find("testsuite")
    results: dict[str, str] = {}
    for case in root.iter("testcase"):
        name, result = f"{case.get('classname')}.{case.get('name')}", outcome(case)
        # a test that failed and whose teardown failed too is there twice
        results[name] = "failed" if "failed" in (result, results.get(name)) else result
    commit = next((item.get("value") for item in root.iter("property") if item.get("name") == "commit"), None)
    return Run(results, (suite.get("timestamp") or "an unknown day")[:10], commit or "unknown")


def evidence(claim: dict) -> str:
    """The tests, by class or file where there are many, and the command."""
    tests = claim.get("tests", [])
    shown = dict.fromkeys(re.sub(r"^.*/(?=test_)", "", test) for test in tests)
    if len(shown) > 2:
        shown = dict.fromkeys("::".join(name.split("::")[:2]) for name in shown)
    return ", ".join(f"`{name}`" for name in [*shown, *([claim["by"]] if "by" in claim else [])])


def last_run(claim: dict, run: Run) -> str:
    """What the run says of a claim, failures first."""
    if "tests" not in claim:
        return "" if "by" in claim else "**not verified**"
    counts = run.count(claim["tests"])
    if not counts:
        return "not in that run"
    words = {"failed": "**{} failed**", "held": "{} held", "skipped": "{} skipped"}
    return ", ".join(text.format(counts[key]) for key, text in words.items() if counts[key])


def page(sections: list[dict], run: Run) -> str:
    """The whole page."""
    lines = [HEAD.format(run=run)]
    for section in sections:
        lines += [f"## {section['title']}\n", "| Claim | Evidence | Last run | Besides |", "|---|---|---|---|"]
        for claim in section["claim"]:
            cells = (claim["claim"], evidence(claim), last_run(claim, run), claim.get("seen", ""))
            lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def read_claims(path: Path = CLAIMS) -> list[dict]:
    """The sections with their claims. Raises ValueError: a key that is none, or a cell that breaks its table."""
    sections = tomllib.loads(path.read_text(encoding="utf-8"))["section"]
    for claim in (claim for section in sections for claim in section["claim"]):
        if set(claim) - KEYS:
            raise ValueError(f'"{claim["claim"]}": {", ".join(set(claim) - KEYS)} is no key of a claim')
        if any("|" in claim.get(key, "") or "\n" in claim.get(key, "") for key in ("claim", "by", "seen")):
            raise ValueError(f'"{claim["claim"]}": a cell can have neither "|" nor a line\'s end')
    return sections


def is_of(text: str, claims: Iterable[dict]) -> bool:
    """Whether a page has these claims, all but the results: those are a run's."""
    rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| "))
    written = [(*row[:2], *row[3:]) for row in rows if row[0] != "Claim"]
    return written == [(claim["claim"], evidence(claim), claim.get("seen", "")) for claim in claims]


def check() -> int:
    """The command line's --check. Raises ValueError as read_claims()."""
    claims = (claim for section in read_claims() for claim in section["claim"])
    if PAGE.exists() and is_of(PAGE.read_text(encoding="utf-8"), claims):
        return 0
    print(f'status: "{PAGE}" hasn\'t the claims of "{CLAIMS}": run "make status"', file=sys.stderr)
    return 1


def write(paths: list[Path]) -> int:
    """Write the page from a run and later ones of some tests. Raises ValueError as read_claims()."""
    run = None
    for path in paths:
        try:
            found = read_run(path)
        except (OSError, ElementTree.ParseError) as error:
            print(f'status: no results of a run in "{path}" ({error}); run "make test" first', file=sys.stderr)
            return 2
        run = run.then(found) if run else found
    assert run
    PAGE.write_text(page(read_claims(), run), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written")
    return 0


def main(arguments: list[str]) -> int:
    try:
        return check() if arguments == ["--check"] else write([Path(name) for name in arguments or [RUN]])
    except ValueError as error:
        print(f"status: {CLAIMS.relative_to(ROOT)}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
