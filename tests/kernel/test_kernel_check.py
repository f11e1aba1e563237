# SPDX-License-Identifier: MIT
"""The tool that keeps the kernel patches in order."""

from __future__ import annotations

import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

# pylint: disable=wrong-import-position
from kernelcheck import check, compare, compiling, mailing_list, rebase, series, trees  # noqa: E402

PATCH = """From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A <a@example.org>
Date: Tue, 24 Nov 2026 06:30:00 +0000
Subject: [PATCH] change two, which is a subject that is so long that it takes
 two lines

Two is written with small letters.

Upstream-Status: Pending
---
 f.c | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/f.c b/f.c
--- a/f.c
+++ b/f.c
@@ -3,3 +3,3 @@
 one
-two
+TWO
 three
"""
OTHER = """From: A <a@example.org>
Subject: [PATCH] change nine

Upstream-Status: Inappropriate [for the product]
---
diff --git a/f.c b/f.c
--- a/f.c
+++ b/f.c
@@ -10,3 +10,3 @@
 eight
-nine
+NINE
 ten
"""
FILE = "zero\nzero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n"


@pytest.fixture(name="top")
def fixture_top(tmp_path, monkeypatch):
    """A kernel-patches/ with two lines; one of two patches is common, the other in each line's folder."""
    top = tmp_path / "kernel-patches"
    for name, text in (("common/0001-two", PATCH), ("6.12/0002-nine", OTHER), ("7.2/0002-nine", OTHER)):
        patch = top / f"{name}.patch"
        patch.parent.mkdir(parents=True, exist_ok=True)
        patch.write_text(text)
    monkeypatch.setattr(series, "ROOT", tmp_path)
    return top


@pytest.fixture(name="tree")
def fixture_tree(tmp_path):
    """A kernel that consists of the one file that is patched."""
    tree = tmp_path / "linux"
    tree.mkdir()
    (tree / "f.c").write_text(FILE)
    (tree / "Makefile").touch()
    return tree


class TestHeader:
    @pytest.mark.parametrize(
        ("old", "new", "word"),
        [
            ("Upstream-Status: Pending", "", "Upstream-Status"),
            ("Upstream-Status: Pending", "Upstream-Status: Maybe", "Upstream-Status"),
            ("Subject: [PATCH] change two", "Subject: [PATCH]", "subject"),
            ("Upstream-Status: Pending", "Upstream-Status: Pending\nSigned-off-by: A <a@example.org>", "Signed-off-by"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, old, new, word):
        patch = tmp_path / "0001.patch"
        patch.write_text(PATCH)
        assert not series.check_header(patch)
        short = PATCH.replace("\n two lines\n", "\n").replace(", which is a subject that is so long that it takes", "")
        patch.write_text(short.replace(old, new))
        (problem,) = series.check_header(patch)
        assert word in problem

    def test_a_sign_off_in_the_code_is_none(self, tmp_path):
        patch = tmp_path / "0001.patch"
        patch.write_text(PATCH.replace("+TWO", "+Signed-off-by: A <a@example.org>"))
        assert not series.check_header(patch)


class TestCompare:
    def test_the_repository_is_in_step(self, capsys):
        assert compare.compare(Namespace(diff=False)) == 0, capsys.readouterr().out

    def test_a_patch_that_one_line_lacks_is_named(self, top, capsys):
        (top / "6.12/0002-nine.patch").rename(top / "6.12/0002-renamed.patch")
        assert compare.compare(Namespace(diff=False)) == 1
        assert "FAIL 0002-nine.patch: not in 6.12" in capsys.readouterr().out

    def test_changed_lines_are_counted_and_no_context(self, top, capsys):
        own = top / "7.2/0001-two.patch"
        own.write_text(PATCH.replace(" three", " 3").replace("@@ -3,3 +3,3 @@", "@@ -9,3 +9,3 @@"))
        assert compare.compare(Namespace(diff=True)) == 0
        assert "7.2/0001-two.patch: 0 changed lines otherwise than common/0001-two.patch" in capsys.readouterr().out
        own.write_text(PATCH.replace("+TWO", "+Two"))
        compare.compare(Namespace(diff=True))
        output = capsys.readouterr().out
        assert "0001-two.patch: 2 changed lines" in output and "-+TWO" in output and "++Two" in output


class TestCheck:
    def test_a_patch_that_the_common_one_can_replace_is_not_needed(self, top, tree):
        own = top / "7.2/0001-two.patch"
        own.write_text(PATCH.replace("@@ -3,3 +3,3 @@", "@@ -1,3 +1,3 @@"))
        (problem,) = check.unneeded(own, tree)
        assert "common/0001-two.patch makes the same changes" in problem
        assert (tree / "f.c").read_text() == FILE

    @pytest.mark.parametrize(("old", "new"), [("+TWO", "+Two"), (" three", " 3")])
    def test_one_with_other_changes_or_for_other_neighbours_is(self, top, tree, old, new):
        own = top / "7.2/0001-two.patch"
        own.write_text(PATCH.replace(old, new))
        (tree / "f.c").write_text(FILE.replace("three", "3") if new == " 3" else FILE)
        assert not check.unneeded(own, tree)

    def test_fuzz_is_a_problem(self, top, tree):
        assert not check.apply(top / "common/0001-two.patch", tree)
        (tree / "f.c").write_text(FILE.replace("three", "3"))
        (problem,) = check.apply(top / "common/0001-two.patch", tree)
        assert "does not apply" in problem

    def test_a_test_that_is_included_is_no_object(self, tmp_path):
        (tmp_path / "drivers").mkdir()
        (tmp_path / "drivers/a.c").write_text('#include "a-test.c"\n')
        (tmp_path / "drivers/a-test.c").touch()
        files = ["drivers/a.c", "drivers/a-test.c", "drivers/gone.c"]
        assert compiling.objects(tmp_path, files) == ["drivers/a.o"]


class TestGuest:
    @pytest.fixture(autouse=True)
    def guest(self, top):
        """A patch of the guest's series beside the two of the host's."""
        patch = top / "guest/common/0301-guest.patch"
        patch.parent.mkdir(parents=True)
        patch.write_text(PATCH.replace("f.c", "g.c"))

    @pytest.mark.parametrize(("only", "names"), [(True, ["0301"]), (False, ["0001", "0002", "0301"])])
    def test_is_checked_after_the_host_s_or_alone(self, only, names):
        found = check.wanted_patches("6.12", Namespace(guest_only=only))
        assert [p.name[:4] for p in found] == names

    def test_is_compiled_apart_from_the_host_s(self):
        host, guest = series.parts(series.patches_of("6.12", guest=True))
        assert (series.touched(host), series.touched(guest)) == (["f.c"], ["g.c"])


class TestTrees:
    def options(self, *given, line=None, given_only=False):
        return Namespace(trees=list(given), line=line, given_only=given_only)

    @pytest.mark.parametrize(("name", "called"), [("6.12:nxp", "nxp"), ("6.12", "linux")])
    @pytest.mark.usefixtures("top")
    def test_a_given_tree_is_checked_beside_debians(self, tree, name, called):
        found, skipped = check.wanted_trees(self.options(f"{name}={tree}"))
        assert [(t.line, t.name) for t in found] == [("6.12", "Debian trixie"), ("6.12", called), ("7.2", "Debian sid")]
        assert not skipped

    @pytest.mark.usefixtures("top")
    def test_given_only_leaves_debians_out(self, tree):
        found, _ = check.wanted_trees(self.options(f"7.2={tree}", given_only=True))
        assert found == [trees.Tree("7.2", "linux", tree)]

    def test_a_line_without_a_tree_is_said(self, top):
        (top / "6.6").mkdir()
        _, skipped = check.wanted_trees(self.options())
        assert skipped == ["SKIP 6.6: Debian has no such kernel, and no tree was given: 6.6=FOLDER"]

    @pytest.mark.parametrize("text", ["{tree}", "6.1={tree}", "6.12=/nowhere", "6.12-nxp={tree}"])
    @pytest.mark.usefixtures("top")
    def test_anything_else_is_refused(self, tree, text):
        with pytest.raises(SystemExit, match="is not LINE=FOLDER.*6.12, 7.2"):
            trees.parse(text.format(tree=tree))

    def test_a_copy_has_all_but_git(self, tree, tmp_path):
        (tree / ".git").mkdir()
        (tree / ".gitignore").touch()
        (tmp_path / "work").mkdir()
        copy = trees.Tree("6.12", "x", tree).copy_into(tmp_path / "work")
        assert sorted(p.name for p in copy.iterdir()) == [".gitignore", "Makefile", "f.c"]


class TestRebase:
    def rebase(self, tree, out):
        return rebase.rebase(Namespace(line="6.12", tree=tree, out=out, base=None, extra=False))

    @pytest.mark.usefixtures("top")
    def test_what_applies_as_it_is_is_not_written(self, tree, tmp_path):
        (tree / "f.c").write_text("moved\n" + FILE)
        assert self.rebase(tree, tmp_path / "out") == 0
        assert not list((tmp_path / "out").iterdir())

    def test_what_needs_other_neighbours_is(self, top, tree, tmp_path):
        wide = PATCH.replace("@@ -3,3 +3,3 @@\n", "@@ -2,5 +2,5 @@\n zero\n").replace(" three\n", " three\n four\n")
        (top / "common/0001-two.patch").write_text(wide)
        (tree / "f.c").write_text(FILE.replace("four", "4"))
        assert self.rebase(tree, tmp_path / "out") == 0
        text = (tmp_path / "out/0001-two.patch").read_text()
        assert "+TWO" in text and "\n 4\n" in text and "Upstream-Status: Pending" in text
        assert "From: A <a@example.org>" in text and "Subject: [PATCH] change two" in text
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["0001-two.patch"]

    def test_a_conflict_says_where_and_a_solution_counts(self, top, tree, tmp_path, capsys):
        (tree / "f.c").write_text(FILE.replace("two", "2"))
        assert self.rebase(tree, tmp_path / "out") == 1
        assert f"> {tmp_path / 'out/0001-two.patch'}" in capsys.readouterr().out
        (tmp_path / "out/0001-two.patch").write_text(PATCH.replace("-two", "-2"))
        assert self.rebase(tree, tmp_path / "out") == 0
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["0001-two.patch"]
        assert (top / "common/0001-two.patch").read_text() == PATCH


class TestList:
    @pytest.fixture
    def out(self, top, tmp_path):
        patch = PATCH.replace("Pending", "Submitted [a link that is long and\n goes on]")
        (top / "common/0003-end.patch").write_text(patch)
        # REUSE-IgnoreStart
        (top / "cover-letter.txt").write_text("SPDX-License-Identifier: GPL-2.0-only\n\nall of it\n\nWhy: because.\n")
        # REUSE-IgnoreEnd
        out = tmp_path / "out"
        assert mailing_list.write(Namespace(out=out, line=None, tree=None)) == 0
        return out

    def test_patches_are_numbered_without_those_of_the_product(self, out):
        assert [p.name for p in sorted(out.iterdir())] == [
            "0000-cover-letter.patch",
            "0001-two.patch",
            "0002-end.patch",
        ]
        subject = "[PATCH 2/2] change two, which is a subject that is so long that it\n takes two lines"
        assert f"\nSubject: {subject}\n\nTwo" in (out / "0002-end.patch").read_text()

    @pytest.mark.parametrize("name", ["0001-two.patch", "0002-end.patch"])
    def test_only_the_description_loses_its_status(self, out, name):
        text = (out / name).read_text()
        assert "Upstream-Status" not in text and "goes on" not in text
        assert "small letters.\n\n---\n f.c" in text
        assert text.endswith(PATCH[PATCH.index("\n---\n") :])

    def test_the_letter_lists_what_follows(self, out):
        text = (out / "0000-cover-letter.patch").read_text()
        assert "\nSubject: [PATCH 0/2] all of it\n\nWhy: because.\n" in text
        assert "   1 change two" in text and "change nine" not in text
        assert re.search(r"^ f\.c +\|", text, re.M)
        assert "SPDX" not in text

    def test_git_takes_them(self, out, tree):
        git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
        patch = str(out / "0001-two.patch")
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "base"], ["am", patch]):
            subprocess.run([*git, *command], cwd=tree, check=True)
        assert "TWO" in (tree / "f.c").read_text()

    def test_old_files_are_not_sent_along(self, out):
        with pytest.raises(SystemExit, match="is not empty"):
            mailing_list.write(Namespace(out=out, line=None, tree=None))

    @pytest.mark.usefixtures("top")
    def test_a_missing_letter_is_said(self, tmp_path):
        with pytest.raises(SystemExit, match="cover-letter.txt' is missing"):
            mailing_list.write(Namespace(out=tmp_path / "out", line=None, tree=None))
