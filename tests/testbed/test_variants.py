# SPDX-License-Identifier: MIT
"""Which Xen and which kernel the environment chooses, without a machine."""

import os
import subprocess
import sys

import pytest

from testbed import cache, debian, debianroot, kernel, process, sources, xen
from testbed.choice import chosen
from testbed.errors import MissingSourceError, TestbedError
from testbed.layout import REPOSITORY


@pytest.fixture(autouse=True)
def unset(monkeypatch, tmp_path):
    for name in (xen.ENVIRONMENT, xen.SOURCE_ENVIRONMENT, kernel.ENVIRONMENT, debianroot.ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(cache.ENVIRONMENT, str(tmp_path / "cache"))


@pytest.mark.parametrize(("value", "answer"), [(None, "b"), ("", "b"), ("a", "a")])
def test_choice_is_the_environment_s_else_the_default(monkeypatch, value, answer):
    if value is not None:
        monkeypatch.setenv("X", value)
    assert chosen("X", ("a", "b"), "b") == answer


def test_choice_of_something_else_is_refused(monkeypatch):
    monkeypatch.setenv("X", "c")
    with pytest.raises(TestbedError, match=r'^X="c" is not known: set it to a or b \(default: b\)$'):
        chosen("X", ("a", "b"), "b")


@pytest.mark.parametrize("variable", [xen.ENVIRONMENT, kernel.ENVIRONMENT, debianroot.ENVIRONMENT])
def test_wrong_value_is_one_sentence_before_anything_is_built(variable):
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "build"],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        env={**os.environ, variable: "best"},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f'testbed: {variable}="best" is not known: set it to ')
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("line", kernel.SUITES)
def test_every_line_has_its_source_series_and_fragment(monkeypatch, line):
    monkeypatch.setenv(kernel.ENVIRONMENT, line)
    assert kernel.source_package() == f"linux-source-{line}"
    assert kernel.patches()
    wanted = kernel.wanted_symbols(kernel.fragments())
    assert sum(name.startswith("CONFIG_PREEMPT_") for name in wanted) == 1


def test_lines_share_no_cache_key(monkeypatch):
    keys = set()
    for line in kernel.SUITES:
        monkeypatch.setenv(kernel.ENVIRONMENT, line)
        keys.add(str(kernel.inputs()))
    assert len(keys) == len(kernel.SUITES)


def test_suites_share_no_cache_key_and_have_all_their_parts(monkeypatch):
    stages, keys = set(), set()
    for suite in ("trixie", "forky"):
        monkeypatch.setenv(debianroot.ENVIRONMENT, suite)
        stages.add(debianroot.stage())
        keys.add(str(sources.Sources().inputs("dom0")))
        assert debianroot.python().startswith("3.")
    assert len(stages) == len(keys) == 2


def test_an_archive_that_stands_still_is_taken_as_apt_here_takes_it(monkeypatch):
    dump = 'Acquire::Languages "none";\nAcquire::Check-Valid-Until "false";\nAcquire::Check-Valid-Until-More "x";\n'
    ran = []
    monkeypatch.setattr(process, "run", lambda command, **_words: ran.append(command) or dump)
    monkeypatch.setattr(debian, "mirror", lambda: "http://archive.example/debian")
    debian.Archive("forky").bootstrap(["dash"], cache.root() / "root")
    options = [word for word in ran[-1] if "Valid" in word]
    assert options == ['--aptopt=Acquire::Check-Valid-Until "false"'] and "forky" in ran[-1]


def test_source_that_is_none_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(xen.SOURCE_ENVIRONMENT, str(tmp_path))
    with pytest.raises(TestbedError, match=r'XEN_DMABUF_XEN_SOURCE=".*" is no tree of Xen: it needs Config.mk'):
        xen.build()


class TestWithoutSource:
    @pytest.fixture(autouse=True)
    def without_source(self, monkeypatch, tmp_path):
        """An archive that does not hand the source out."""

        def refuse():
            raise MissingSourceError("source package xen 4.20: apt-get failed\nmore")

        monkeypatch.setattr(xen, "_patched", refuse)
        monkeypatch.setattr(xen, "_binary", lambda: tmp_path)

    def test_debian_s_xen_is_taken_with_a_word(self, tmp_path, capsys):
        assert xen.build() == tmp_path / "xen"
        assert "WITHOUT THE PATCHES" in capsys.readouterr().out

    def test_whoever_asks_for_the_patched_one_gets_an_error(self, monkeypatch):
        monkeypatch.setenv(xen.ENVIRONMENT, "patched")
        with pytest.raises(MissingSourceError):
            xen.build()


def tree(folder, version):
    """The little of a tree that a version is read from, and what the patch changes is missing."""
    (folder / "xen").mkdir(parents=True)
    (folder / "xen/Makefile").write_text(f"xenversion:\n\t@echo {version}\n")
    return folder


def test_version_without_patches_is_told_what_is_covered(tmp_path):
    with pytest.raises(TestbedError, match=r'"4.9.3", and xen-patches/ covers .*XEN_DMABUF_XEN=debian'):
        xen._compile(tree(tmp_path, "4.9.3"), tmp_path / "config", tmp_path)


def test_patch_that_does_not_apply_is_named(tmp_path):
    with pytest.raises(TestbedError, match=r"Xen patch xen-patches/4.18-4.22/0001-.*rebase it onto 4.20.1"):
        xen._compile(tree(tmp_path, "4.20.1"), tmp_path / "config", tmp_path)


def test_binary_tells_whether_it_is_patched(tmp_path):
    for name, content in (("a", b"Xen 4.20.4-xen-dmabuf"), ("b", b"Xen 4.20.4+63")):
        (tmp_path / name).write_bytes(content)
    assert [xen.variant(tmp_path / name) for name in "ab"] == ["patched", "debian"]


def test_stage_says_whether_it_is_built():
    assert not cache.is_built("thing", {"a": "1"})
    cache.stage("thing", {"a": "1"}, lambda folder: None)
    assert cache.is_built("thing", {"a": "1"}) and not cache.is_built("thing", {"a": "2"})
