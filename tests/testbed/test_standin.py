# SPDX-License-Identifier: MIT
"""oeqa_stand_in and oe-core's own oeqa discover the same cases and give the same results.

Needs no machine, but a clone of openembedded-core: OE_CORE=folder.
"""

import ast
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from testbed import oetest
from testbed.layout import REPOSITORY

STAND_IN = REPOSITORY / "testbed/oeqa_stand_in"
TOY = """
from oeqa.runtime.xen_dmabuf.case import XenDmabufCase


class ToyTest(XenDmabufCase):
    @classmethod
    def setUpClass(cls):
        cls.word = "set up"

    @classmethod
    def tearDownClass(cls):
        pass

    def test_passes(self):
        self.assertEqual(self.word, "set up")

    def test_fails(self):
        self.assertEqual(self.td["MACHINE"], "another machine")

    def test_breaks(self):
        raise KeyError("broken")

    def test_is_skipped(self):
        self.skipTest("for a reason")

    def test_fails_in_cleanup(self):
        self.addCleanup(self.fail, "in cleanup")


class BrokenClassTest(XenDmabufCase):
    @classmethod
    def setUpClass(cls):
        raise RuntimeError("no Dom0")

    def test_never_runs(self):
        pass
"""
CONFTEST = """
from types import SimpleNamespace

from oeqa.runtime.case import OERuntimeTestCase

OERuntimeTestCase.tc = SimpleNamespace(target=None, td={"MACHINE": "qemuarm64"})
"""


@pytest.fixture
def export(tmp_path):
    """An exported oe-test; the tests are skipped where there is no oe-core to compare with."""
    if not os.environ.get("OE_CORE"):
        pytest.skip("NOT COMPARED with oe-core's own oeqa: set OE_CORE to a clone of openembedded-core")
    return oetest.export(Path(os.environ["OE_CORE"]), tmp_path / "export", oetest.TEST_DATA)


def oe_test(export, *arguments):
    done = subprocess.run(
        oetest.command(export, "--target-ip", "127.0.0.1", *arguments),
        cwd=export.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout


def run_pytest(*arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout


def test_same_cases_in_the_same_order(export):
    real = re.findall(r"INFO - xen_dmabuf_\w+\.(\w+\.test_\w+)$", oe_test(export, "--list-tests", "name"), re.M)
    ours = re.findall(
        r"^tests/testbed/test_image\.py::(XenDmabuf\w+)::(test_\w+)$",
        run_pytest("--collect-only", "tests/testbed/test_image.py"),
        re.M,
    )
    assert real and real == [".".join(found) for found in ours]


def test_no_case_has_parts():
    """oe-core's oeqa gives a case whose subTest() failed the result UNKNOWN."""
    for file in (REPOSITORY / "lib/oeqa/runtime").rglob("*.py"):
        assert "subTest" not in file.read_text(encoding="utf-8"), file


# Programs that OpenEmbedded's busybox has not, in scarthgap, wrynose or the release after it.
LACKING = (
    "base64|bc|cksum|comm|fold|ionice|killall5|lsof|nice|nl|nsenter|paste|pkill|pmap|printenv|pstree|sha512sum|shred|tac|"
    "taskset|timeout|truncate|tsort|unshare|xz"
)
BEFORE_A_PROGRAM = r"(?:^|[;&|(!{\n`]|\b(?:do|then|else|if|while|until|exec))\s*"


def test_no_case_calls_what_the_images_lack():
    """Debian has all of them, so nothing else would tell."""
    call = re.compile(rf"{BEFORE_A_PROGRAM}({LACKING})(?=[\s;|&)]|$)")
    assert call.search("touch a; timeout 3 true") and call.search("pkill x") and not call.search("(status, timeout=60)")
    for file in (REPOSITORY / "lib/oeqa/runtime").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        assert not [text for text in texts if call.search(text)], file


def real_results(export):
    oe_test(export)
    (file,) = (export.parent / "results").glob("*.json")
    (run,) = json.loads(file.read_text(encoding="utf-8")).values()
    return {name.split(".", 1)[1]: found["status"] for name, found in run["result"].items()}


def junit_results(file):
    """As oe-core words them; pytest tells failures from errors by where they come from, not by exception."""
    results = {}
    for case in ET.parse(file).iter("testcase"):
        name = f"{case.get('classname').rsplit('.', 1)[-1]}.{case.get('name')}"
        verdicts = {child.tag for child in case}
        bad = verdicts & {"failure", "error"}
        results[name] = "BAD" if bad else "SKIPPED" if "skipped" in verdicts else "PASSED"
    return results


def test_same_results(export, tmp_path):
    cases = export.parent / "meta-xen-dmabuf/lib/oeqa/runtime/cases"
    for file in cases.glob("*.py"):
        file.unlink()
    (cases / "xen_dmabuf_toy.py").write_text(TOY, encoding="utf-8")
    real = {name: "BAD" if status in ("FAILED", "ERROR") else status for name, status in real_results(export).items()}

    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "test_toy.py").write_text(TOY, encoding="utf-8")
    (ours / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    output = run_pytest(
        f"--rootdir={ours}", f"--junitxml={ours}/junit.xml", str(ours), PYTHONPATH=f"{STAND_IN}:{REPOSITORY}/lib"
    )
    assert junit_results(ours / "junit.xml") == real, output
    assert set(real.values()) == {"PASSED", "BAD", "SKIPPED"}
