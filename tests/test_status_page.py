# SPDX-License-Identifier: MIT
"""docs/status.toml names tests that exist, docs/status.md is made of it, and a run's results are read as they are."""

from __future__ import annotations

import ast

import pytest
import status

CLAIMS = [claim for section in status.read_claims() for claim in section["claim"]]
JUNIT = """<testsuites><testsuite timestamp="2026-11-27T10:00:00"><properties>
<property name="commit" value="abc"/></properties>
<testcase classname="tests.a.test_b.C" name="test_d"/>
<testcase classname="tests.a.test_b.C" name="test_d[1]"><failure/></testcase>
<testcase classname="tests.a.test_b.C" name="test_dd"><skipped/></testcase>
<testcase classname="tests.a.test_bc" name="test_e"><error/></testcase>
<testcase classname="tests.a.test_f" name="test_g"/>
<testcase classname="tests.a.test_f" name="test_g"><error/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "junit.xml"
    path.write_text(JUNIT)
    return status.read_run(path)


def names_in(path):
    """Classes and functions of a test file, methods with their class; of the image tests that it imports, too."""
    tree = ast.parse(path.read_text())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = set()
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("oeqa.runtime.cases."):
            found |= names_in(status.ROOT / "lib" / (node.module.replace(".", "/") + ".py"))
    return found


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["claim"][:40])
def test_the_named_tests_exist(claim):
    for test in claim.get("tests", []):
        name, *parts = test.split("::")
        path = status.ROOT / name
        assert path.exists(), test
        if parts:
            found = names_in(path)
            assert parts[0] in found and set(parts[1:]) <= found[parts[0]], test


def test_the_page_has_the_claims():
    assert status.main(["--check"]) == 0, 'run "make status"'


@pytest.mark.parametrize("key", ["claim", "by", "seen"])
def test_a_page_of_other_claims_is_found(key):
    claims = [{"claim": "One", "by": "make one", "seen": "twice"}, {"claim": "Two", "tests": ["tests/a/test_b.py"]}]
    text = status.page([{"title": "T", "claim": claims}], status.Run({}, "2026-11-28", "abc"))
    assert status.is_of(text, claims)
    assert not status.is_of(text, [{**claims[0], key: "another"}, claims[1]])
    assert not status.is_of(text, claims[:1])
    assert not status.is_of(text + "| a row by hand |\n", claims)


@pytest.mark.parametrize("content", [None, "", "| One | two | three | four | five |\n"])
def test_a_page_that_is_none_is_old(content, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(status, "PAGE", tmp_path / "status.md")
    if content is not None:
        (tmp_path / "status.md").write_text(content)
    assert status.main(["--check"]) == 1
    assert str(tmp_path) in (said := capsys.readouterr().err) and 'run "make status"' in said


def test_results_are_counted_once(run):
    assert run.count(["tests/a/test_b.py", "tests/a/test_b.py::C::test_d"]) == {"held": 1, "failed": 1, "skipped": 1}
    assert run.count(["tests/a/test_b.py::C::test_d"]) == {"held": 1, "failed": 1}
    assert run.count(["tests/a"]) == {"held": 1, "failed": 3, "skipped": 1}
    assert str(run) == "the run of 2026-11-27 on commit abc (1 held, 3 failed, 1 skipped)"


def test_a_claim_without_results_says_so(run):
    assert status.last_run({"tests": ["tests/a/test_b.py"]}, run) == "**1 failed**, 1 held, 1 skipped"
    assert status.last_run({"tests": ["tests/none.py"]}, run) == "not in that run"
    assert status.last_run({"by": "make demo"}, run) == ""
    assert status.last_run({}, run) == "**not verified**"


@pytest.mark.parametrize("content", [None, "", "<testsuite>"])
def test_without_a_run_nothing_is_written(content, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(status, "PAGE", tmp_path / "status.md")
    if content is not None:
        (tmp_path / "junit.xml").write_text(content)
    assert status.main([str(tmp_path / "junit.xml")]) == 2
    assert 'run "make test" first' in capsys.readouterr().err
    assert not (tmp_path / "status.md").exists()


@pytest.mark.parametrize("line", ['note = "x"', 'seen = "a | b"'])
def test_a_malformed_claim_is_refused(line, tmp_path):
    path = tmp_path / "status.toml"
    path.write_text(f'[[section]]\ntitle = "T"\n[[section.claim]]\nclaim = "C"\n{line}\n')
    with pytest.raises(ValueError, match='"C"'):
        status.read_claims(path)


def test_a_later_run_of_some_tests_counts_and_is_told(run):
    later = status.Run({"tests.a.test_b.C.test_d[1]": "held"}, "2026-11-28", "def")
    both = run.then(later)
    assert (
        run.results["tests.a.test_b.C.test_d[1]"] == "failed" and both.results["tests.a.test_b.C.test_d[1]"] == "held"
    )
    assert len(both.results) == len(run.results)
    assert str(both).endswith("; 1 of them again on commit def)") and "commit abc" in str(both)
