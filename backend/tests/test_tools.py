# SPDX-License-Identifier: MIT
"""Configuration, log, control socket, command line, checks, installed files."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import grp
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
import typing
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from xen_dmabuf import config, limits, log
from xen_dmabuf.cli import check
from xen_dmabuf.cli import main as cli
from xen_dmabuf.cli.query import ask
from xen_dmabuf.codec import CodecError, decode, encode
from xen_dmabuf.errors import UserError
from xen_dmabuf.supervisor import xenstore
from xen_dmabuf.supervisor.control import ControlServer
from xen_dmabuf.worker import gpu

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def parse(tmp_path):
    """The configuration of a file with this text."""
    path = tmp_path / "backend.toml"

    def load(text: str) -> config.Config:
        path.write_text(text)
        return config.load(str(path), must_exist=True)

    return load


def test_shipped_configuration_is_the_defaults(parse):
    text = (DATA / "backend.toml").read_text()
    assert parse(text) == config.Config()
    # with every commented key switched on, too: the comments show the true defaults
    lines = (line.removeprefix("#") if "=" in line else line for line in text.split("\n"))
    switched_on = "\n".join(line for line in lines if not line.startswith("#"))
    kinds = (config.Display, config.Gpu, config.Quota, config.ConnectorConfig)
    keys = 2 + sum(len(dataclasses.fields(kind)) for kind in kinds)
    assert switched_on.count(" = ") == keys
    assert parse(switched_on) == config.Config()


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
        ("[connector.'domu.0']\nkeyboard = 'never'", "connector.domu.0.keyboard"),
        ("[connector.domu.0]\nkeyboard = 'always'", "connector.domu.0"),
        ("log_level = 'loud'", "log_level"),
        ("log_level =", "TOML"),
    ],
)
def test_wrong_configuration_names_file_and_key(parse, text, key):
    with pytest.raises(UserError, match=rf"backend\.toml: .*{re.escape(key)}"):
        parse(text)


def test_tables_of_one_domain_start_from_the_default(parse):
    parsed = parse("[quota.default]\npages = 7\n[quota.domu]\nbuffers = 3")
    assert parsed.quota_for("domu") == config.Quota(pages=7, buffers=3)
    assert parsed.quota_for("other") == config.Quota(pages=7)
    assert decode(config.Config, json.loads(json.dumps(encode(parsed)))) == parsed


def test_the_most_specific_connector_table_holds(parse):
    text = "".join(
        f"[connector.'{name}']\nkeyboard = '{keyboard}'\n"
        for name, keyboard in (
            ("kiosk.*", "always"),
            ("*.left", "after-click"),
            ("kiosk.l*t", "after-click"),
            ("kiosk.left", "always"),
            ("a[b.*", "always"),
        )
    )
    found = parse(text)

    def keyboard(domain: str, unique_id: str) -> str:
        return found.connector_for(domain, unique_id).keyboard

    assert keyboard("kiosk", "left") == "always", "exactly this one"
    assert keyboard("kiosk", "lot") == "after-click", "the longest pattern"
    assert keyboard("kiosk", "right") == "always"
    assert keyboard("other", "left") == "after-click"
    assert keyboard("a[b", "x") == "always" and keyboard("ab", "x") == "after-click", "only * is special"
    assert parse("").connector_for("any", "0") == config.ConnectorConfig()
    text = "[connector.'*']\nkeyboard = 'always'\n[connector.'a.*']\n[connector.'a.b*']\nkeyboard='after-click'"
    swapped = parse(text)
    assert [swapped.connector_for("a", name).keyboard for name in ("c", "b")] == ["always", "after-click"]


def test_drop_ins_come_after_the_file_in_the_order_of_their_names(parse, tmp_path):
    folder = tmp_path / "backend.toml.d"
    folder.mkdir()
    (folder / "2.toml").write_text("[quota.domu]\npages = 9")
    (folder / "1.toml").write_text("[quota.domu]\npages = 8\nbuffers = 2")
    (folder / "0.off").write_text("no TOML")
    text = "log_level = 'debug'\n[quota.default]\nwidth = 640"
    assert parse(text).quota_for("domu") == config.Quota(buffers=2, pages=9, width=640)
    assert parse(text).log_level == "debug"
    (folder / "3.toml").write_text("[quota.domu]\npages = 0")
    with pytest.raises(UserError, match=r"3\.toml: quota\.domu\.pages"):
        parse(text)


def test_a_configuration_without_the_default_tables_is_none():
    """A file always has them; what a worker reads may be no file's."""
    for name, first in (("gpu", "default"), ("quota", "default"), ("connector", "*")):
        with pytest.raises(CodecError, match=re.escape(f'{name}: the table "{first}"')):
            decode(config.Config, {name: {"domu": {}}})


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
        async with ControlServer(path, {"status": status, "domains": domains}, {}):
            assert os.stat(path).st_mode & 0o777 == 0o600
            for request in (status, domains):
                assert await asyncio.to_thread(ask, path, request.__name__) == await request()
            with pytest.raises(UserError, match="known: status, domains"):
                await asyncio.to_thread(ask, path, "format c:")
        assert not os.path.exists(path)

    asyncio.run(run())
    with pytest.raises(UserError, match="service running"):
        ask(path, "status")


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
    first = gpu.Card("/dev/dri/card0", "a", connected=False)
    second = gpu.Card("/dev/dri/card1", "b", connected=True)
    assert gpu.choose([first, second], None) is second
    assert gpu.choose([first, second], "/dev/dri/card0") is first
    assert gpu.choose([first], "/dev/dri/card7") is first
    with pytest.raises(UserError, match="/dev/dri"):
        gpu.choose([], None)


def test_cards_are_found_in_sysfs_by_number(tmp_path):
    """Not a connector's folder, and card10 after card9."""
    drm = tmp_path / "class/drm"
    for connector, status in (
        ("card9-HDMI-A-1", "disconnected"),
        ("card9-DP-1", "connected"),
        ("card10-DP-1", "unknown"),
    ):
        (drm / connector).mkdir(parents=True)
        (drm / connector / "status").write_text(status + "\n")
    (drm / "card10-Writeback-1").mkdir()
    device = tmp_path / "dev/char/226:128/device/drm"
    for name in ("renderD128", "card10", "card9", "card9-DP-1"):
        (device / name).mkdir(parents=True)
    sysfs = str(tmp_path)
    assert gpu.card_of_device(os.makedev(226, 128), sysfs) == "/dev/dri/card9"
    assert gpu.card_of_device(os.makedev(226, 0), sysfs) is None
    assert gpu._connected("card9", sysfs) and not gpu._connected("card10", sysfs) and not gpu._connected("card1", sysfs)
    for name, number in (("card9", "226:9"), ("renderD137", "226:137"), ("odd", "x")):
        (tmp_path / f"dev/char/1:3/device/drm/{name}").mkdir(parents=True)
        (tmp_path / f"dev/char/1:3/device/drm/{name}/dev").write_text(f"{number}\n")
    assert gpu.device_numbers(os.devnull, sysfs) == {os.makedev(*pair) for pair in ((1, 3), (226, 9), (226, 137))}
    assert gpu.device_numbers(f"{sysfs}/nowhere", sysfs) == set()
    assert gpu.list_cards(sysfs, str(device)) == [], "folders are no nodes: each is left out, with a warning"


# -- checks


def groups_are(monkeypatch, **gids: int) -> None:
    """These are the groups of the system."""

    def getgrnam(name: str):
        return SimpleNamespace(gr_gid=gids[name])

    monkeypatch.setattr(grp, "getgrnam", getgrnam)


@pytest.mark.skipif(os.geteuid() != 0, reason="LOUD: not root; a worker's rights are NOT tried")
def test_root_checks_with_a_workers_rights(monkeypatch, capfd, tmp_path):
    """A node that only root can open is missing for a worker."""
    groups_are(monkeypatch, **{"xen-dmabuf": 4711, "wayland": 4712, "video": 44, "render": 106})
    node = tmp_path / "gntdev"
    node.touch(0o600)
    tmp_path.chmod(0o755)

    def can_open(_config) -> str:
        os.close(os.open(node, os.O_RDONLY))
        return "can be opened"

    def who(_config) -> str:
        return f"{os.getresuid()} {os.getresgid()} {sorted(os.getgroups())}"

    monkeypatch.setattr(check, "_SUPERVISORS", {"XenStore": who})
    monkeypatch.setattr(check, "_WORKERS", {"who": who, "grant device": can_open})
    assert check.run_checks(config.Config()) == 1
    root, worker, device = capfd.readouterr().out.splitlines()
    assert root.startswith("ok      XenStore: (0, 0, 0)")
    assert worker == f"ok      who: {(65534,) * 3} {(65534,) * 3} [44, 106, 4711, 4712]"
    assert device.startswith("MISSING grant device: [Errno 13]") and "udev rule" in device
    assert (os.geteuid(), os.getegid()) == (0, 0)


@pytest.fixture
def as_root(monkeypatch):
    """What root's calls are given is printed, by whoever runs this."""
    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda value, name=name: print(name, value))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(check, "_SUPERVISORS", {})


def test_a_group_that_is_missing_is_named(monkeypatch, capfd, as_root):
    groups_are(monkeypatch, video=44, render=106)
    monkeypatch.setattr(check, "_WORKERS", {"all": lambda _: "fine"})
    assert check.run_checks(config.Config()) == 1
    first, second, *rest = capfd.readouterr().out.splitlines()
    assert first.startswith("MISSING group xen-dmabuf:") and "systemd-sysusers" in first
    assert second.startswith("MISSING group wayland:")
    calls = ["setgroups [44, 106]", "setgid 65534", "setuid 65534"]
    assert rest == [*calls, "ok      all: fine"]


@pytest.mark.parametrize("found", [{}, {"XenStore": lambda _: "connected"}])
def test_checks_that_hold_are_a_success(monkeypatch, capfd, as_root, found):
    groups_are(monkeypatch, **dict.fromkeys(check.GROUPS, 5))
    monkeypatch.setattr(check, "_SUPERVISORS", found)
    monkeypatch.setattr(check, "_WORKERS", {"all": lambda _: "fine"})
    assert check.run_checks(config.Config()) == 0
    assert "MISSING" not in capfd.readouterr().out


def test_a_check_that_dies_is_a_failure(monkeypatch, capfd, as_root):
    """A vendor's library may do that."""
    groups_are(monkeypatch, **dict.fromkeys(check.GROUPS, 5))
    dies = {"GPU": lambda _: os.kill(os.getpid(), signal.SIGKILL)}
    monkeypatch.setattr(check, "_WORKERS", dies)
    assert check.run_checks(config.Config()) == 1
    assert "MISSING the rest: SIGKILL ended a check" in capfd.readouterr().out


def test_a_check_tries_the_groups_of_the_unit():
    unit = (DATA / "systemd/xen-dmabuf-worker@.service").read_text()
    groups = re.search(r"^SupplementaryGroups=(.*)$", unit, re.M)[1]
    assert tuple(groups.split()) == check.GROUPS
    sysusers = (DATA / "xen-dmabuf.sysusers").read_text()
    assert set(re.findall(r"^g (\S+)", sysusers, re.M)) == set(check.GROUPS)


# -- manual pages and completion


def pages() -> list[Path]:
    return sorted((DATA / "man").glob("*"))


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands, and that of the program under an empty name."""
    parser = cli.make_parser()
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return {"": parser, **action.choices}


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (name for name in action.option_strings if name.startswith("--"))


def described(page: str) -> set[str]:
    """What the tagged lists of a page explain, and the synopsis of the command."""
    text = (DATA / "man" / page).read_text().replace(r"\-", "-")
    items = re.findall(r"^\.It (.*)$", text, re.M)
    return {word for item in items for word in re.findall(r"[\w-]+", item)}


def test_every_command_and_option_is_in_the_manual():
    parsers = commands()
    explained = described("xen-dmabuf-backend.1")
    assert set(parsers) - {""} <= explained
    long = {name.removeprefix("-") for parser in parsers.values() for name in options(parser)}
    assert {"-socket", "-watch", "-for"} <= long
    assert long <= explained  # mdoc's Fl writes the first hyphen
    synopsis = (DATA / "man/xen-dmabuf-backend.1").read_text().replace(r"\-", "-")
    synopsis = synopsis.split(".Sh SYNOPSIS\n")[1].split(".Sh ")[0]
    for name, parser in parsers.items():
        (block,) = (b for b in synopsis.split(".Nm\n") if b.startswith(f".Cm {name}\n" if name else ".Fl"))
        named = {f"-{word}" for word in re.findall(r"Fl (-[\w-]+)", block)}
        assert named == set(options(parser)) - ({"--help"} if name else set()), name


def keys(kind: type) -> Iterator[str]:
    """Every key of the configuration."""
    for name, hint in typing.get_type_hints(kind).items():
        inner = (typing.get_args(hint) or (hint,))[-1]
        if dataclasses.is_dataclass(inner):
            yield from keys(inner)
        else:
            yield name


def test_every_key_is_in_the_manual_with_its_default():
    text = (DATA / "man/backend.toml.5").read_text()
    assert {"log_level", "hidden_flips_per_second", "strategies", "pages"} <= set(keys(config.Config))
    found = dict(re.findall(r'^\.It Cm (\w+) No "?= (.*?)"?$', text, re.M))
    assert set(found) == set(keys(config.Config))
    shipped = (DATA / "backend.toml").read_text()
    assert {k: v.replace(r"\(dq", '"') for k, v in found.items()} == dict(re.findall(r"^#(\w+) = (.*)$", shipped, re.M))


def test_the_units_and_pages_name_pages_that_are_there():
    there = {path.name for path in pages()}
    for unit in (DATA / "systemd").glob("*.s*[et]"):
        named = re.findall(r"man:([\w.@-]+)\((\d)\)", unit.read_text())
        assert named and {f"{page}.{section}" for page, section in named} <= there, unit
    for path in pages():
        named = {".".join(words) for words in re.findall(r"^\.Xr (\S+) (\d)", path.read_text(), re.M)}
        own = {name for name in named if name.startswith(("xen-dmabuf", "backend"))}
        assert own == there - {path.name}


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_pages_have_no_fault(path):
    if not shutil.which("mandoc"):
        pytest.skip("LOUD: mandoc is not installed; the manual pages are NOT checked")
    done = subprocess.run(["mandoc", "-T", "lint", path], capture_output=True, text=True, check=False)
    faults = [line for line in done.stdout.splitlines() if "referenced manual not found" not in line]
    assert faults == []


def completed(*words: str) -> set[str]:
    """What bash offers for the last of the words."""
    script = """
        source "$1"; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _xen_dmabuf_backend
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    file = DATA / "completion/xen-dmabuf-backend"
    done = subprocess.run(
        ["bash", "-c", script, "bash", file, "xen-dmabuf-backend", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.skipif(not shutil.which("bash"), reason="LOUD: no bash; its completion is NOT tested")
def test_bash_completes_commands_options_and_choices():
    parsers = commands()
    assert completed("") == {*parsers, *options(parsers[""])} - {""}
    assert completed("st") == {"status"}
    for name, parser in parsers.items():
        if not name:
            continue
        assert completed(name, "--") == set(options(parser)), name
        for action in parser._actions:
            if action.option_strings and action.choices:
                assert completed(name, action.option_strings[0], "") == set(action.choices)
            elif action.option_strings and action.nargs is None:
                assert completed(name, action.option_strings[0], "") == set()


@pytest.mark.parametrize("end", [None, OSError(11, "Resource temporarily unavailable")])
def test_no_watch_is_lost_however_the_binding_says_that_none_is_left(monkeypatch, end):
    """xen.lowlevel.xs was seen to raise EAGAIN instead of returning None."""
    events = [("/a", "/a"), ("/b", "/b"), end]

    def check_watch():
        event = events.pop(0)
        if isinstance(event, OSError):
            raise event
        return event

    connection = SimpleNamespace(read=lambda *_: None, check_watch=check_watch)
    binding = SimpleNamespace(Error=OSError, xs=lambda: connection)
    monkeypatch.setattr(xenstore, "xen_binding", lambda _: binding)
    assert xenstore.XenStore().fired() == ["/a", "/b"]


def test_a_xenstore_that_never_answers_is_an_error_with_the_remedy(monkeypatch):
    """Dom0's kernel takes requests also where no xenstored is."""
    end = threading.Event()
    connection = SimpleNamespace(read=lambda *_: end.wait())
    monkeypatch.setattr(xenstore, "xen_binding", lambda _: SimpleNamespace(Error=OSError, xs=lambda: connection))
    monkeypatch.setattr(limits, "XENSTORE", 0.1)
    try:
        with pytest.raises(UserError, match=r"does not answer within 0.1 s; is xenstored running\?"):
            xenstore.XenStore()
    finally:
        end.set()
