# SPDX-License-Identifier: MIT
"""Screens whose guest isn't there: which these are, by a supervisor between faked edges (handshake_fakes.py), and
their windows in a real, headless Weston, by the worker that shows them."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from handshake_fakes import (
    BACK,
    FRONT,
    FakeChild,
    FakeStore,
    FakeUnits,
    connect,
    edges,  # noqa: F401 (a fixture)
    running,
    toolstack_creates,
)
from test_units import heard, linked, unit, worker_process
from waiting import run_as_a_worker, until

from xen_dmabuf.cli.report import status_lines
from xen_dmabuf.config import MOST_IDLE, Config, ConnectorConfig, Display, load
from xen_dmabuf.errors import UserError
from xen_dmabuf.link import messages
from xen_dmabuf.link.messages import Connect, Connected, Disconnect, Hello, IdleScreen, IdleShown, ShowIdle, Start
from xen_dmabuf.supervisor.units import IDLE
from xen_dmabuf.worker.idle import Idle

SCREEN = ConnectorConfig(absent="idle", idle="#102030", placement="fullscreen")
NAME = "domu.id0"


def config(**screens: ConnectorConfig) -> Config:
    """``id0``: of domain domu."""
    named = {f"domu.{name}": screen for name, screen in (screens or {"id0": SCREEN}).items()}
    return Config(connector={"*": ConnectorConfig(), **named}, display=Display(socket="/run/w"))


# -- the configuration


def loaded(folder, text: str) -> Config:
    path = folder / "backend.toml"
    path.write_text(text)
    return load(str(path), must_exist=True)


def test_only_a_table_that_names_one_screen_is_shown_without_its_guest(tmp_path):
    there = loaded(
        tmp_path, '[connector."*"]\nabsent = "idle"\n[connector."a.*"]\n[connector."b.id0"]\nidle = "#010203"\n'
    )
    assert {name: screen.idle for name, screen in there.idle_screens.items()} == {"b.id0": "#010203"}
    assert not loaded(tmp_path, "").idle_screens


def test_more_screens_than_a_worker_shows_are_an_error(tmp_path):
    text = '[connector."*"]\nabsent = "idle"\n' + "".join(f'[connector."d.id{i}"]\n' for i in range(MOST_IDLE + 1))
    with pytest.raises(UserError, match=f"at most {MOST_IDLE}"):
        loaded(tmp_path, text)


# -- which ones


def idle_child() -> FakeChild:
    (child,) = (child for child in FakeChild.made if child.domid == IDLE)
    return child


def wanted(child: FakeChild) -> dict[str, IdleScreen]:
    """What the worker without a guest was told last."""
    message = child.sent[-1]
    assert isinstance(message, ShowIdle) and message.socket == "/run/w"
    return {screen.name: screen for screen in message.screens}


def test_the_idle_picture_comes_before_the_guest_and_after_it():
    async def run():
        store = FakeStore()
        async with running(store, config) as supervisor:
            child = idle_child()
            await until(lambda: bool(child.sent), "the worker's first word")
            (screen,) = wanted(child).values()
            assert (screen.name, screen.title, screen.app_id) == (NAME, "domu id0", "xen-dmabuf.domu.id0")
            assert screen.settings == SCREEN and not screen.undecided and screen.width == 0
            child.say(IdleShown((NAME,)))
            assert (await supervisor.status())["idle"] == [{"name": NAME, "state": "shown"}]
            toolstack_creates(store)
            await connect(store)
            await until(lambda: wanted(child) == {}, "no idle picture of a guest that is there")
            child.say(IdleShown(()))
            status = await supervisor.status()
            assert status["idle"] == [{"name": NAME, "state": "guest"}]
            assert "idle picture of domu.id0: not shown, its guest is there" in list(status_lines(status))
            del store.nodes["/local/domain/3/domid"]
            store.remove(BACK.rpartition("/")[0])
            store.remove(FRONT)
            store.queue.append("@releaseDomain")
            await until(lambda: NAME in wanted(child), "the idle picture of a guest that has ended")
            assert (wanted(child)[NAME].width, wanted(child)[NAME].height) == (640, 480), "the size that it had"
            assert (await supervisor.status())["idle"] == [{"name": NAME, "state": "waits"}]
            assert not child.left and not child.stopped
        assert child.left, "the windows outlive the supervisor"

    asyncio.run(run())


def test_the_idle_picture_stays_until_the_guest_is_shown():
    """Its worker takes a while to begin: an output that is dark meanwhile is what nobody wants."""

    async def run():
        store = FakeStore()
        FakeChild.answers.pop(Connect)
        async with running(store, config):
            child = idle_child()
            toolstack_creates(store)
            front = asyncio.get_running_loop().create_task(connect(store))
            worker = await _worker()
            await until(lambda: worker.count(Connect) == 1, "the frontend's connect")
            assert NAME in wanted(child)
            assert all(NAME in {s.name for s in message.screens} for message in child.sent)
            worker.say(Connected(0))
            await front
            await until(lambda: wanted(child) == {}, "no second window")

    asyncio.run(run())


async def _worker() -> FakeChild:
    await until(lambda: any(child.domid == 3 for child in FakeChild.made), "the guest's worker")
    return next(child for child in FakeChild.made if child.domid == 3)


def test_a_closed_frontend_s_screen_is_idle_at_once():
    """Before its pages are back: a compositor may hold them for seconds."""

    async def run():
        store = FakeStore()
        FakeChild.answers.pop(Disconnect)
        async with running(store, config):
            child = idle_child()
            toolstack_creates(store)
            await connect(store)
            await until(lambda: wanted(child) == {}, "the guest")
            store.write(f"{BACK}/online", "0")
            store.write(f"{BACK}/state", "5")
            worker = await _worker()
            await until(lambda: worker.count(Disconnect) == 1, "the release")
            await until(lambda: NAME in wanted(child), "the idle picture")

    asyncio.run(run())


def test_an_ivi_surface_s_id_is_never_given_twice():
    """From the device's beginning to its end, which is longer than its worker has the surface."""

    async def run():
        store = FakeStore()
        FakeChild.answers.pop(Connect)
        screen = dataclasses.replace(SCREEN, ivi_id=7)
        async with running(store, lambda: config(id0=screen)):
            child = idle_child()
            await until(lambda: bool(child.sent), "the first word")
            assert NAME in wanted(child)
            toolstack_creates(store)
            worker = await _worker()
            await until(lambda: wanted(child) == {}, "the end of the idle picture")
            assert not worker.count(Connect)

    asyncio.run(run())


def test_a_new_supervisor_takes_no_picture_for_absent_before_it_knows():
    async def run():
        store = FakeStore()
        toolstack_creates(store)
        FakeChild.hello = None
        async with running(store, config):
            await until(lambda: len(FakeChild.made) == 2, "both workers")
            child = idle_child()
            child.say(Hello(-1))
            await until(lambda: any(isinstance(message, ShowIdle) for message in child.sent), "the first word")
            assert wanted(child)[NAME].undecided, "its window stays, or is not opened"

    asyncio.run(run())


def test_another_connector_of_the_guest_is_absent():
    async def run():
        store = FakeStore()
        async with running(store, lambda: config(id1=SCREEN, id9=SCREEN)):
            child = idle_child()
            toolstack_creates(store)
            await connect(store)
            await until(lambda: set(wanted(child)) == {"domu.id9"}, "the screen that the guest doesn't have")

    asyncio.run(run())


def test_reload_begins_and_ends_the_worker_without_a_guest():
    async def run():
        store, current = FakeStore(), [Config()]
        async with running(store, lambda: current[0]) as supervisor:
            assert not FakeChild.made
            current[0] = config()
            supervisor.reload()
            child = idle_child()
            await until(lambda: bool(child.sent), "the first word")
            current[0] = Config()
            supervisor.reload()
            await until(lambda: child.stopped, "its end")
            assert (await supervisor.status())["idle"] == []

    asyncio.run(run())


def test_a_unit_that_the_configuration_does_not_want_is_ended():
    async def run(load_, ended):
        store, units = FakeStore(), FakeUnits()
        units.there = {IDLE}
        async with running(store, load_, units) as supervisor:
            await supervisor._strangers.end()
        assert units.ended == ended

    asyncio.run(run(Config, [IDLE]))
    asyncio.run(run(config, []))


def test_a_guest_s_worker_says_nothing_of_idle_pictures():
    async def run():
        store = FakeStore()
        async with running(store, config):
            toolstack_creates(store)
            await connect(store)
            worker = await _worker()
            with pytest.raises(ValueError, match="idle-shown"):
                worker.say(IdleShown((NAME,)))
            with pytest.raises(ValueError, match="start"):
                idle_child().say(Start(3, "domu"))

    asyncio.run(run())


# -- their windows


def screen(name: str = NAME, **values) -> IdleScreen:
    return IdleScreen(name, name, f"test.{name}", settings=ConnectorConfig(absent="idle", **values))


class _Shown(Idle):
    """One that is asked without a link."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[IdleShown] = []

    def send(self, message):
        self.said.append(message)

    def window(self, name: str = NAME):
        return self._screens[name].window

    def drawn(self, name: str = NAME) -> bool:
        window = self._screens[name].window if name in self._screens else None
        return window is not None and window._configured and not window.waits_for_frame


def test_windows_come_stay_and_go(weston, tmp_path):
    picture = tmp_path / "idle.ppm"
    picture.write_bytes(b"P6\n4 3\n255\n" + bytes(36))

    async def run():
        idle = _Shown()
        smaller = dataclasses.replace(screen("other.id0"), width=64, height=48)  # what it covered wouldn't be drawn
        idle.on_message(ShowIdle(weston.socket, (screen(idle=str(picture)), smaller)))
        await until(lambda: idle.drawn() and idle.drawn("other.id0"), "two windows, drawn by Weston")
        assert idle.said[-1] == IdleShown((NAME, "other.id0"))
        window = idle.window()
        assert not idle._compositor.seats.place_of(window.surface), "nobody hears its input"
        undecided = dataclasses.replace(screen(idle=str(picture)), width=64, height=48, undecided=True)
        for screens in ((undecided,), (dataclasses.replace(undecided, undecided=False),)):
            idle.on_message(ShowIdle(weston.socket, screens))
            assert idle.window() is window and idle.said[-1] == IdleShown((NAME,))
        idle.on_message(ShowIdle(weston.socket, (screen(idle="#ffffff"),)))
        assert idle.window() is not window, "other settings, another window"
        idle.on_message(ShowIdle(weston.socket, (dataclasses.replace(screen("new.id0"), undecided=True),)))
        assert idle.said[-1] == IdleShown(()) and not idle._compositor.windows
        idle.close()

    run_as_a_worker(run())


def test_another_compositor_shows_the_same(weston):
    async def run():
        idle = _Shown()
        weston.stop()
        idle.on_message(ShowIdle(weston.socket, (screen(),)))
        await until(lambda: bool(idle.said) and not idle.said[-1].names, "nothing without a compositor")
        for _ in range(2):
            await asyncio.to_thread(weston.start)
            await until(idle.drawn, "the window", 30)
            assert idle.said[-1] == IdleShown((NAME,))
            await asyncio.to_thread(weston.stop)
            await until(lambda: idle.said[-1] == IdleShown(()), "the compositor's end")
        idle.close()

    run_as_a_worker(run())


def test_the_process_serves_its_link_and_shows_without_a_supervisor(weston, tmp_path):
    with worker_process(tmp_path, instance="idle") as (process, path):
        with linked(path) as stream:
            assert heard(stream) == Hello(-1)
            stream.write(messages.line(ShowIdle(weston.socket, (screen(),))))
            while heard(stream) != IdleShown((NAME,)):
                pass
        with linked(path) as stream:
            assert heard(stream) == Hello(-1)
            stream.write(messages.line(ShowIdle(weston.socket, (dataclasses.replace(screen(), undecided=True),))))
            assert heard(stream) == IdleShown((NAME,)), "it was shown without a supervisor, and stays"
            stream.write(messages.line(Start(5, "domu")))
            assert stream.readline() == b"", "it takes no domain"
        assert process.poll() is None


def test_its_unit_has_no_device_of_xen_and_no_gpu():
    changes = unit(f"xen-dmabuf-worker@{IDLE}.service.d/guestless.conf")
    assert changes["DeviceAllow"] == [""] and changes["SupplementaryGroups"] == ["", "wayland"]
    assert unit("xen-dmabuf-worker@.service")["DevicePolicy"] == ["closed"]
