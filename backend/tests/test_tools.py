# SPDX-License-Identifier: MIT
"""Configuration, log, control socket, command line, installed files."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from xen_dmabuf import cli, config, drm, log, xenstore
from xen_dmabuf.control import ControlServer
from xen_dmabuf.errors import UserError
from xen_dmabuf.query import ask
from xen_dmabuf.report import status_lines

DATA = Path(__file__).parent.parent / "data"


def test_shipped_configuration_is_the_defaults():
    text = (DATA / "backend.toml").read_text()
    assert config.parse(text) == config.Config()
    # with every commented key switched on, too: the comments show the true defaults
    lines = (line.removeprefix("#") if "=" in line else line for line in text.split("\n"))
    switched_on = "\n".join(line for line in lines if not line.startswith("#"))
    kinds = (config.Display, config.Gpu, config.Quota, config.Worker)
    keys = 2 + sum(len(dataclasses.fields(kind)) for kind in kinds)
    assert switched_on.count(" = ") == keys
    assert config.parse(switched_on) == config.Config()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("colour = 1", "colour"),
        ("[display]\nsockt = 'x'", "display.sockt"),
        ("[quota.default]\npages = -1", "quota.default.pages"),
        ("[quota.domu]\npages = 'all'", "quota.domu.pages"),
        ("[quota.domu]\nbuffers = true", "quota.domu.buffers"),
        ("[gpu.default]\nstrategies = ['magic']", "gpu.default.strategies"),
        ("[gpu.default]\nstrategies = []", "gpu.default.strategies"),
        ("[gpu.default]\nstrategies = 'map'", "gpu.default.strategies"),
        ("[gpu]\nstrategies = ['map']", "gpu.strategies"),
        ("[gpu.imx-drm]\ncaches = 'maybe'", "gpu.imx-drm.caches"),
        ("quota = 3", "quota"),
        ("log_level = 'loud'", "log_level"),
        ("log_level =", "TOML"),
    ],
)
def test_wrong_configuration_names_the_key(text, key):
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        config.parse(text)


def test_tables_of_one_domain_start_from_the_default():
    parsed = config.parse("[quota.default]\npages = 7\n[quota.domu]\nbuffers = 3")
    assert parsed.quota_for("domu") == config.Quota(pages=7, buffers=3)
    assert parsed.quota_for("other") == config.Quota(pages=7)
    again = config.parse_plain(json.loads(json.dumps(config.to_plain(parsed))))
    assert again == parsed


def test_missing_configuration(tmp_path):
    assert config.load(str(tmp_path / "none"), must_exist=False) == config.Config()
    with pytest.raises(UserError, match="none"):
        config.load(str(tmp_path / "none"), must_exist=True)


def test_log_lines_are_for_the_journal():
    formatter = log._Formatter(journal=True)
    record = logging.LogRecord("xen_dmabuf.x", logging.WARNING, "", 0, "said", (), None)
    record.fields = {"domain": "a b", "value": "evil\n<0>forged", "count": 3, "none": ""}
    text = formatter.format(record)
    assert text.startswith("<4>xen_dmabuf.x: said ")
    assert "\n" not in text and 'domain="a b"' in text and "count=3" in text and 'none=""' in text


def test_rate_limit_opens_again():
    limit = log.RateLimit(burst=2, period=10)
    assert [limit.allow(now) for now in (0, 1, 2, 9, 10, 11, 12)] == [
        *(True, True, False, False),
        *(True, True, False),
    ]
    assert limit.suppressed == 3


def test_control_socket(tmp_path):
    path = str(tmp_path / "control.sock")

    async def status() -> dict:
        return {"domains": [], "totals": {"domains": 0, "pixel_bytes_copied": 0}}

    async def domains() -> dict:
        return {"domains": []}

    async def run():
        async with ControlServer(path, {"status": status, "domains": domains}):
            assert os.stat(path).st_mode & 0o777 == 0o600
            for request in (status, domains):
                assert await asyncio.to_thread(ask, path, request.__name__) == await request()
            with pytest.raises(UserError, match="known: status, domains"):
                await asyncio.to_thread(ask, path, "format c:")
        assert not os.path.exists(path)

    asyncio.run(run())
    with pytest.raises(UserError, match="service running"):
        ask(path, "status")


def test_status_for_people():
    connector = dict.fromkeys(
        ("name", "width", "height", "flips_requested", "flips_shown", "flips_not_shown"), 1
    ) | {"requests_refused": 0}
    buffer = {"cookie": 16, "width": 1, "height": 1, "formats": ["XR24"], "stride": 4}
    buffer |= {"strategy": "map", "allocator": "gbm", "why": "first"}
    device = {"device": 0, "link": "up", "reason": "", "connectors": [connector]}
    domain = {"name": "domu", "domid": 3, "pid": 7, "worker": "ready", "caches": "as they are"}
    domain["devices"] = [device | {"buffers": [buffer]}]
    totals = {"domains": 1, "pixel_bytes_copied": 5}
    text = "\n".join(status_lines({"domains": [domain], "totals": totals}))
    assert "domu (domid 3)" in text and "map (gbm), first" in text and "caches: as they are" in text and "5 octets" in text
    buffer["why"] = "\x1b]0;title\x07\n"
    lines = list(status_lines({"domains": [domain], "totals": totals}))
    assert len(lines) == 6 and all(line.isprintable() for line in lines)


def test_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["--help"])
    assert error.value.code == 0 and "be-alloc=0" in capsys.readouterr().out
    assert cli.main(["status", "--socket", str(tmp_path / "none")]) == 2
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("colour = 1")
    assert cli.main(["run", "--config", str(wrong)]) == 2
    assert "colour" in capsys.readouterr().err


def test_the_compositors_card_is_chosen():
    first = drm.Card("/dev/dri/card0", "a", connected=False)
    second = drm.Card("/dev/dri/card1", "b", connected=True)
    assert drm.choose([first, second], None) is second
    assert drm.choose([first, second], "/dev/dri/card0") is first
    assert drm.choose([first], "/dev/dri/card7") is first
    with pytest.raises(UserError, match="/dev/dri"):
        drm.choose([], None)


def test_installed_files_are_listed():
    entries = tomllib.loads((DATA / "INSTALL.toml").read_text())["file"]
    sources = {entry["source"] for entry in entries}
    there = {path.name for path in DATA.iterdir()} - {"INSTALL.toml"}
    assert sources == there
    assert all(entry["destination"].startswith("/") for entry in entries)


@pytest.mark.parametrize("end", [None, OSError(11, "Resource temporarily unavailable")])
def test_no_watch_is_lost_however_the_binding_says_that_none_is_left(monkeypatch, end):
    """xen.lowlevel.xs was seen to raise EAGAIN instead of returning None."""
    events = [("/a", "/a"), ("/b", "/b"), end]

    def check_watch():
        event = events.pop(0)
        if isinstance(event, OSError):
            raise event
        return event

    connection = SimpleNamespace(check_watch=check_watch)
    binding = SimpleNamespace(Error=OSError, xs=lambda: connection)
    monkeypatch.setattr(xenstore, "xen_binding", lambda _: binding)
    assert xenstore.XenStore().fired() == ["/a", "/b"]
