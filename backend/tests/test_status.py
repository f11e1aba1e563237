# SPDX-License-Identifier: MIT
"""What `xen-dmabuf-backend status` and `wait` say, and that the documents say the same."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import socket
import sys
import types
import typing
from dataclasses import asdict, replace
from pathlib import Path

import kbdfront
import pytest
from handshake_fakes import (
    BACK,
    FRONT,
    FakeChild,
    FakeStore,
    connect,
    edges,  # noqa: F401 (a fixture)
    running,
    toolstack_creates,
)
from kbdfront import Kbdfront, toolstack_adds_input
from waiting import until

import xen_dmabuf
from xen_dmabuf.cli.metrics import metrics_text
from xen_dmabuf.cli.query import Stream, ask
from xen_dmabuf.cli.report import status_lines
from xen_dmabuf.config import Config
from xen_dmabuf.errors import UserError
from xen_dmabuf.link.messages import (
    AskStatus,
    BufferStatus,
    ConnectInput,
    ConnectorStatus,
    DeviceStatus,
    Held,
    Hello,
    InputConnected,
    InputStatus,
    Report,
    WorkerStatus,
)
from xen_dmabuf.supervisor import events
from xen_dmabuf.supervisor.control import ControlServer
from xen_dmabuf.supervisor.status import SCHEMA, DeviceState, DomainState, Event, IdleState, Totals

SCHEMA_PAGE = Path(__file__).parents[2] / "docs/status-schema.md"

CONNECTOR = ConnectorStatus(
    *(0, "id0", 640, 480, 7, False),
    **{"flips_requested": 9, "flips_shown": 5, "flips_not_shown": 3, "flips_open": 1},
    **{"events_dropped": 2, "requests_refused": 4, "flip_age": 16, "frame_age": 12_500},
    warning="it has no mode",
)
BUFFER = BufferStatus(16, 640, 480, ("XR24",), 2560, 300, "map", "gbm", "first", 5)
DEVICE = DeviceStatus((CONNECTOR, replace(CONNECTOR, index=1, flip_age=-1, frame_age=-1, warning="")), (BUFFER,))
INPUT = InputStatus("id0", "id0", "", 1, 0, 21, 22, 23, 24, 25)
WORKER = WorkerStatus(
    *(7, True, "etnaviv", "as they are", 1, 0),
    **{"pixel_bytes_copied": 512, "pages_late": 6, "releasing_pages": 8, "restarts": 2},
    devices={"0": DEVICE},
    inputs={"0": INPUT},
)


def _is_up(supervisor) -> bool:
    device = supervisor._domains[3].inputs.get(0)
    return device is not None and (device.back, device.front) == (4, 4)


def plain(value: object) -> object:
    """As a program reads it."""
    return json.loads(json.dumps(value))


@contextlib.asynccontextmanager
async def served(tmp_path, worker: WorkerStatus = WORKER):
    """A supervisor with a connected domain whose worker reports ``worker``, and its control socket."""
    store = FakeStore()
    FakeChild.answers[AskStatus] = lambda _: Report(worker)
    FakeChild.answers[ConnectInput] = lambda asked: InputConnected(asked.device)
    path = str(tmp_path / "control.sock")
    async with running(store) as supervisor:
        answers = {"status": supervisor.status, "domains": supervisor.domains}
        async with ControlServer(path, answers, {"watch": supervisor.watch}):
            toolstack_creates(store)
            front = await connect(store)
            device = supervisor._domains[3].devices[0]
            await until(lambda: (device.back, device.front) == (4, 4), "the device's last step")
            toolstack_adds_input(store)
            Kbdfront(store).probe()
            await until(lambda: _is_up(supervisor), "input connected")
            yield types.SimpleNamespace(
                store=store, front=front, path=path, supervisor=supervisor, child=FakeChild.made[0]
            )


def status_of(tmp_path, worker: WorkerStatus = WORKER) -> dict:
    """The whole way: from a worker's report to what a program reads."""

    async def run():
        async with served(tmp_path, worker) as there:
            return await asyncio.to_thread(ask, there.path, "status")

    return asyncio.run(asyncio.wait_for(run(), 30))


# -- docs/status-schema.md


@pytest.fixture
def page() -> dict[str, dict[str, str]]:
    """The types of the fields, by section of the page."""
    if not SCHEMA_PAGE.exists():
        pytest.skip("LOUD: docs/status-schema.md is not here; the schema is NOT compared with it")
    sections = re.split(r"^## ", SCHEMA_PAGE.read_text(), flags=re.M)
    return {
        section.split("\n", 1)[0]: dict(re.findall(r"^\| `(\w+)` \| (.*?) \| ", section, re.M))
        for section in sections[1:]
    }


def types_of(*kinds: type) -> dict[str, str]:
    """The fields of dataclasses, in the page's words."""
    words = {int: "number", str: "text", bool: "boolean", tuple: "list", dict: "list"}
    described = {}
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            hint = hints[field.name]
            choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else ()
            base = choices[0] if choices else typing.get_origin(hint) or hint
            low = field.metadata.get("low", 0)
            described[field.name] = (
                words[base] + (" or null" if types.NoneType in choices else "") + (f", from {low}" if low else "")
            )
    return described


def test_the_page_names_every_field_with_its_type(page):
    assert page["Domain"] == types_of(WorkerStatus, DomainState)
    assert page["Device"] == types_of(DeviceStatus, DeviceState)
    assert page["Input"] == types_of(InputStatus, DeviceState)
    assert page["Connector"] == types_of(ConnectorStatus)
    assert page["Buffer"] == types_of(BufferStatus)
    assert page["Idle screen"] == types_of(IdleState)
    assert page["Totals"] == types_of(Totals)
    assert page["Event"] == types_of(Event)
    assert f"`schema` is {SCHEMA}." in SCHEMA_PAGE.read_text()


def test_a_status_has_the_fields_of_the_page_and_no_other(page, tmp_path):
    status = status_of(tmp_path)
    (domain,) = status["domains"]
    (device,) = domain["devices"]
    assert status["schema"] == SCHEMA
    assert set(status) == set(page["Top level"])
    assert set(status["totals"]) == set(page["Totals"])
    assert set(domain) == set(page["Domain"])
    assert set(device) == set(page["Device"])
    assert [set(item) for item in domain["inputs"]] == [set(page["Input"])]
    assert {name for item in device["connectors"] for name in item} == set(page["Connector"])
    assert {name for item in device["buffers"] for name in item} == set(page["Buffer"])


def test_a_status_has_what_worker_and_supervisor_know(tmp_path):
    status = status_of(tmp_path)
    (domain,) = status["domains"]
    assert domain["pid"] == 100 and domain["worker"] == "ready" and domain["restarts"] == 2
    (device,) = domain["devices"]
    assert device == plain({**asdict(DEVICE), **asdict(DeviceState(0, 4, 4, "up", "", ""))})
    assert domain["inputs"] == [plain({**asdict(INPUT), **asdict(DeviceState(0, 4, 4, "up", "", ""))})]
    assert status["totals"] == {"domains": 1, "pixel_bytes_copied": 512}


# -- for people


def test_status_for_people(tmp_path):
    text = "\n".join(status_lines(status_of(tmp_path)))
    for words in (
        "domu (domid 3): worker 100, ready",
        "2 restart(s)",
        "holds 8 page(s)",
        "6 came too late",
        "caches: as they are",
        "vdispl 0: up",
        "9 flips, 5 shown, 3 not shown, 4 requests refused, 2 events dropped",
        "last flip 16 ms ago, last frame 12 s ago",
        "last flip never, last frame never",
        "connector id0: it has no mode",
        "map (gbm), first",
        "vkb 0: up",
        "keyboard of id0, pointer of id0: 21 events sent, 22 coalesced, 23 dropped, 24 waiting",
        "1 keys and 0 fingers down, 25 keys withheld",
        "512 bytes of pixels copied",
    ):
        assert words in text, words


def test_a_workers_words_bring_no_control_codes_to_a_terminal(tmp_path):
    evil = "\x1b]0;title\x07\n\x9b2J"
    device = DeviceStatus((replace(CONNECTOR, name=evil, warning=evil),), (replace(BUFFER, why=evil, formats=(evil,)),))
    status = status_of(
        tmp_path,
        replace(WORKER, caches=evil, driver=evil, devices={"0": device}, inputs={"0": replace(INPUT, touch=evil)}),
    )
    lines = list(status_lines(status))
    assert len(lines) == 11 and all(line.isprintable() for line in lines)
    assert metrics_text(status).replace("\n", "").isprintable()


# -- metrics


def samples(text: str) -> dict[str, dict[tuple, float]]:
    """By name, the values by their labels; by the reference implementation of the format."""
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    found: dict[str, dict[tuple, float]] = {}
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation and family.type in ("counter", "gauge")
        for sample in family.samples:
            key = tuple(sorted(sample.labels.items()))
            assert found.setdefault(sample.name, {}).setdefault(key, sample.value) is sample.value
    return found


def test_metrics_are_openmetrics(tmp_path):
    text = metrics_text(status_of(tmp_path))
    assert text.endswith("\n# EOF\n")
    found = samples(text)
    who = (("domain", "domu"), ("domid", "3"))
    first, second = (tuple(sorted((*who, ("connector", index), ("device", "0")))) for index in ("0", "1"))
    assert found == {
        "xen_dmabuf_domains": {(): 1},
        "xen_dmabuf_worker_up": {who: 1},
        "xen_dmabuf_worker_restarts_total": {who: 2},
        "xen_dmabuf_held_pages": {who: 300},
        "xen_dmabuf_releasing_pages": {who: 8},
        "xen_dmabuf_late_pages_total": {who: 6},
        "xen_dmabuf_copied_pixel_bytes_total": {who: 512},
        "xen_dmabuf_buffers": {
            (*who, ("strategy", name)): count for name, count in {"map": 1, "export": 0, "copy": 0, "none": 0}.items()
        },
        "xen_dmabuf_flips_requested_total": {first: 9, second: 9},
        "xen_dmabuf_flips_shown_total": {first: 5, second: 5},
        "xen_dmabuf_flips_not_shown_total": {first: 3, second: 3},
        "xen_dmabuf_requests_refused_total": {first: 4, second: 4},
        "xen_dmabuf_events_dropped_total": {first: 2, second: 2},
        "xen_dmabuf_flip_age_seconds": {first: 0.016},
        "xen_dmabuf_frame_age_seconds": {first: 12.5},
    }


def test_metrics_are_what_a_node_exporter_reads(tmp_path):
    """Its textfile collector takes the older Prometheus format: no other types, no time stamps."""
    parser = pytest.importorskip("prometheus_client.parser")
    text = metrics_text(status_of(tmp_path))
    old = {sample.name: sample for family in parser.text_string_to_metric_families(text) for sample in family.samples}
    assert old.keys() == samples(text).keys()
    assert all(sample.timestamp is None for sample in old.values())


def test_metrics_of_a_worker_that_lies_are_metrics(tmp_path):
    """One line too many, or twice the same, and a monitoring server takes none of the file."""
    twice = DeviceStatus((CONNECTOR,) * 40, (replace(BUFFER, strategy='x"\n} 1'),) * 3)
    status = status_of(tmp_path, replace(WORKER, devices={"0": twice}))
    status["domains"][0]["name"] = 'a"b\\c\nd'
    found = samples(metrics_text(status))
    (labels,) = found["xen_dmabuf_flips_shown_total"]
    assert dict(labels)["domain"] == 'a"b\\c?d'
    assert sum(found["xen_dmabuf_buffers"].values()) == 3


def test_counters_of_a_worker_that_does_not_answer_are_left_out(tmp_path):
    """A 0 would be taken for a restart."""
    status = status_of(tmp_path)
    status["domains"][0]["worker"] = "not answering"
    found = samples(metrics_text(status))
    assert list(found["xen_dmabuf_worker_up"].values()) == [0]
    assert set(found) == {"xen_dmabuf_domains", "xen_dmabuf_worker_up"}


# -- events


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def watched(path: str) -> socket.socket:
    """A watcher that has asked, and reads nothing yet."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.sendall(b"watch\n")
    return client


def test_each_change_is_an_event(tmp_path):
    async def run():
        async with served(tmp_path) as there:
            with Stream(there.path, "watch") as stream:

                def upto(name: str) -> list[dict]:
                    """The events up to the first of this name, but for those of the input device beside it."""
                    found = []
                    while not found or found[-1]["event"] != name:
                        event = stream.next(10)
                        assert event, f"no event {name} after {found}"
                        if event["event"] != "input":
                            found.append(event)
                    return found

                status = await asyncio.to_thread(stream.first)
                assert status == plain(await there.supervisor.status())
                there.supervisor.rescan()  # nothing changed
                await until(lambda: not there.supervisor._dirty, "a step")
                there.child.on_lost()
                assert await asyncio.to_thread(upto, "worker-gone") == [asdict(Event("worker-gone", 3, "domu"))]
                held = Held(0, there.supervisor._domains[3].devices[0]._published)
                there.child.say(Hello(3, Config(), (held,)))  # one that goes on
                assert len(await asyncio.to_thread(upto, "worker")) == 1
                there.child.on_lost()
                await asyncio.to_thread(upto, "worker-gone")
                there.child.say(there.child.hello)  # a new one, which has nothing: all begins anew
                (first, *rest) = await asyncio.to_thread(upto, "device")
                assert first == asdict(Event("worker", 3, "domu")) and rest
                device = rest[-1]
                while (device["link"], device["backend_state"], device["frontend_state"]) != ("up", 4, 4):
                    (*_, device) = await asyncio.to_thread(upto, "device")
                assert device["domid"] == 3 and device["device"] == 0 and device["reason"] == ""
                there.store.on_change = lambda path: None
                for node in (kbdfront.FRONT, kbdfront.BACK, FRONT, BACK):
                    there.store.remove(node)
                found = await asyncio.to_thread(upto, "domain-gone")
                gone = [event["event"] for event in found if event["event"].endswith("-gone")]
                assert sorted(gone) == ["device-gone", "domain-gone", "input-gone"] and gone[-1] == "domain-gone"
                toolstack_creates(there.store)
                found = await asyncio.to_thread(upto, "device")
                assert [event["event"] for event in found[:1]] == ["domain"]

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_watcher_that_does_not_read_is_dropped_and_others_are_not(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(events, "LONGEST_QUEUE", 10)

    async def run():
        async with served(tmp_path) as there:
            publish = there.supervisor._events
            with Stream(there.path, "watch") as reads, watched(there.path):
                await asyncio.to_thread(reads.first)
                await until(lambda: len(publish._watchers) == 2, "both watch")
                files = open_files()
                long = Event("device", 3, "domu", reason="x" * 5000)
                for _ in range(1000):
                    publish.publish(long)
                    assert await asyncio.to_thread(reads.next, 10) == asdict(long)
                    if len(publish._watchers) == 1:
                        break
                assert len(publish._watchers) == 1
                assert "does not read" in caplog.text
                await until(lambda: open_files() < files, "the supervisor's end is closed")

    asyncio.run(asyncio.wait_for(run(), 60))


def test_there_is_a_limit_for_watchers_and_who_leaves_makes_room(tmp_path):
    async def run():
        async with served(tmp_path) as there, contextlib.AsyncExitStack() as stack:
            watchers = there.supervisor._events._watchers
            clients = [stack.enter_context(watched(there.path)) for _ in range(events.MOST_WATCHERS)]
            await until(lambda: len(watchers) == events.MOST_WATCHERS, "all watch")
            with pytest.raises(UserError, match="16 watchers"):
                await asyncio.to_thread(ask, there.path, "watch")
            assert (await asyncio.to_thread(ask, there.path, "status"))["schema"] == SCHEMA
            clients[3].close()
            await until(lambda: len(watchers) == events.MOST_WATCHERS - 1, "one has left")
            assert (await asyncio.to_thread(ask, there.path, "watch"))["schema"] == SCHEMA

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_stream_ends_with_the_supervisor(tmp_path):
    async def run():
        async with served(tmp_path) as there:
            stream = Stream(there.path, "watch")
            await asyncio.to_thread(stream.first)
        with stream, pytest.raises(UserError, match="closed the connection"):
            while await asyncio.to_thread(stream.next, 10):
                pass

    asyncio.run(asyncio.wait_for(run(), 30))


# -- the command


async def command(*arguments: str):
    source = str(Path(xen_dmabuf.__file__).parents[1])
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "xen_dmabuf.cli", *arguments),
        env=os.environ | {"PYTHONPATH": source},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


def test_status_in_every_form(tmp_path):
    async def run():
        async with served(tmp_path) as there:

            async def status(*options: str) -> str:
                result = await ended(await command("status", "--socket", there.path, *options))
                assert (result[0], result[2]) == (0, "")
                return result[1]

            expected = plain(await there.supervisor.status())
            assert json.loads(await status("--json")) == expected
            assert await status("--metrics") == metrics_text(expected)
            assert await status() == "\n".join(status_lines(expected)) + "\n"

    asyncio.run(asyncio.wait_for(run(), 60))


def test_watch_prints_lines_until_nobody_reads_them(tmp_path):
    async def run():
        async with served(tmp_path) as there:
            process = await command("status", "--watch", "--socket", there.path)
            assert json.loads(await process.stdout.readline())["schema"] == SCHEMA
            there.child.on_lost()
            assert json.loads(await process.stdout.readline())["event"] == "worker-gone"
            process._transport.get_pipe_transport(1).close()
            assert await process.stderr.read() == b""
            assert await process.wait() == 0

    asyncio.run(asyncio.wait_for(run(), 60))


def test_wait_for_connected_and_gone(tmp_path):
    async def run():
        async with served(tmp_path) as there:
            wait = ("wait", "--socket", there.path, "--timeout", "30")
            for domain in ("domu", "3"):
                assert await ended(await command(*wait, domain)) == (0, "", "")
            assert await ended(await command(*wait, "domu", "--device", "0")) == (0, "", "")
            assert await ended(await command(*wait, "other", "--for", "gone")) == (0, "", "")
            process = await command(*wait, "domu", "--for", "gone")
            watchers = there.supervisor._events._watchers
            await until(lambda: watchers, "it watches")
            there.store.on_change = lambda path: None
            there.store.remove(FRONT)
            there.store.remove(BACK)
            assert await ended(process) == (0, "", "")

    asyncio.run(asyncio.wait_for(run(), 90))


def test_wait_for_flips(tmp_path):
    async def run():
        still = replace(WORKER, devices={"0": DeviceStatus((replace(CONNECTOR, flip_age=5000),))})
        async with served(tmp_path, still) as there:
            wait = ("wait", "domu", "--for", "flipping", "--socket", there.path)
            status, output, errors = await ended(await command(*wait, "--timeout", "0.1"))
            assert (status, output) == (1, "")
            assert "domu: not flipping within 0.1 s: vdispl 0 is up" in errors
            assert "last flip 5000 ms ago" in errors
            asked = there.child.count(AskStatus)
            process = await command(*wait, "--timeout", "600")
            await until(lambda: there.child.count(AskStatus) > asked, "its first look")
            FakeChild.answers[AskStatus] = lambda _: Report(WORKER)
            assert await asyncio.wait_for(ended(process), 20) == (0, "", "")

    asyncio.run(asyncio.wait_for(run(), 90))


def test_wait_says_what_is_there_instead(tmp_path):
    async def run():
        async with served(tmp_path) as there:
            wait = ("wait", "--socket", there.path, "--timeout", "0")
            for arguments, words in {
                ("other",): "other: not connected within 0 s: the service knows no device of it",
                ("domu", "--device", "7"): "no vdispl device 7 of it",
                ("3", "--for", "gone"): "3: not gone within 0 s: vdispl 0 is up",
            }.items():
                status, _, errors = await ended(await command(*wait, *arguments))
                assert status == 1 and words in errors, errors
        status, _, errors = await ended(await command(*wait, "domu"))
        assert status == 2 and "service running" in errors
        for wrong in (("--device", "-1"), ("--timeout", "nan"), ("--for", "ever")):
            status, _, errors = await ended(await command(*wait, "domu", *wrong))
            assert status == 2 and wrong[1] in errors

    asyncio.run(asyncio.wait_for(run(), 90))
