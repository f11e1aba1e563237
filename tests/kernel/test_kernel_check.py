# SPDX-License-Identifier: MIT
"""The tool that keeps the kernel series in step."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("kernel_check", ROOT / "tests/kernel_check.py")
kernel_check = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(kernel_check)

PATCH = """From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A <a@example.org>
Date: Tue, 24 Nov 2026 06:30:00 +0000
Subject: [PATCH 1/1] change two

Upstream-Status: Pending
Signed-off-by: A <a@example.org>
---
diff --git a/f.c b/f.c
--- a/f.c
+++ b/f.c
@@ -3,3 +3,3 @@
 one
-two
+TWO
 three
"""


@pytest.fixture(name="series")
def fixture_series(tmp_path, monkeypatch):
    """A kernel-patches/ with a reference series of one patch."""
    root = tmp_path / "kernel-patches"
    (root / "6.12").mkdir(parents=True)
    (root / "6.12/0001-two.patch").write_text(PATCH)
    monkeypatch.setattr(kernel_check, "ROOT", root)
    return root


def test_the_repository_is_in_step(capsys):
    assert kernel_check.compare(argparse.Namespace(diff=False)) == 0, capsys.readouterr().out


@pytest.mark.parametrize("line", ["Upstream-Status: Pending", "Signed-off-by: A <a@example.org>"])
def test_a_description_without_its_tags_is_found(tmp_path, line):
    patch = tmp_path / "0001.patch"
    patch.write_text(PATCH)
    assert not kernel_check.check_header(patch)
    patch.write_text(PATCH.replace(line, ""))
    assert len(kernel_check.check_header(patch)) == 1


def test_compare_counts_changed_lines_and_no_context(series, capsys):
    (series / "7.2").mkdir()
    other = series / "7.2/0001-two.patch"
    other.write_text(PATCH.replace(" three", " 3").replace("@@ -3,3 +3,3 @@", "@@ -9,3 +9,3 @@"))
    assert kernel_check.compare(argparse.Namespace(diff=False)) == 0
    assert "none" in capsys.readouterr().out
    other.write_text(PATCH.replace("+TWO", "+Two"))
    kernel_check.compare(argparse.Namespace(diff=True))
    output = capsys.readouterr().out
    assert "0001: 2" in output and "-+TWO" in output and "++Two" in output


def test_compare_misses_a_patch(series, capsys):
    (series / "7.2").mkdir()
    (series / "7.2/0002-other.patch").write_text(PATCH)
    assert kernel_check.compare(argparse.Namespace(diff=False)) == 1
    assert "FAIL 0001-two.patch: only in 6.12" in capsys.readouterr().out


def test_a_test_that_is_included_is_no_object(tmp_path):
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers/a.c").write_text('#include "a-test.c"\n')
    (tmp_path / "drivers/a-test.c").touch()
    assert kernel_check.objects(tmp_path, ["drivers/a.c", "drivers/a-test.c", "drivers/gone.c"]) == ["drivers/a.o"]


def rebase(series, tree, out):
    return kernel_check.rebase(argparse.Namespace(source="6.12", tree=tree, out=out, base=None, keep=[]))


def test_rebase_moves_a_patch(series, tmp_path):
    tree = tmp_path / "linux"
    tree.mkdir()
    (tree / "f.c").write_text("zero\n" * 7 + "one\ntwo\nthree\nfour\n")
    assert rebase(series, tree, tmp_path / "out") == 0
    text = (tmp_path / "out/0001-two.patch").read_text()
    assert "+TWO" in text and "@@ -6,6 +6,6 @@" in text
    assert "Signed-off-by: A <a@example.org>" in text and "From: A <a@example.org>" in text
    assert (tree / "f.c").read_text().endswith("two\nthree\nfour\n")


def test_rebase_says_where_to_resolve_a_conflict(series, tmp_path, capsys):
    tree = tmp_path / "linux"
    tree.mkdir()
    (tree / "f.c").write_text("something else\n")
    assert rebase(series, tree, tmp_path / "out") == 1
    assert "git am --continue" in capsys.readouterr().out
