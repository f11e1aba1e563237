# SPDX-License-Identifier: MIT
"""In-vehicle shells: Weston's ivi-shell with hmi-controller, which tiles surfaces; its screen is read back."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator

import pytest
from compositors import Screen
from fakes import FakeXen
from seen import HEIGHT, PANEL, WIDTH, Seen
from serving import placed, serving
from test_compositors import flip, xen  # noqa: F401 (a fixture)
from test_display import connected, open_window
from test_look import looks, painted
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.config import ConnectorConfig
from xen_dmabuf.displif import wire as OP
from xen_dmabuf.displif.geometry import Crop
from xen_dmabuf.errors import ConnectionLost
from xen_dmabuf.worker import claim
from xen_dmabuf.worker.compositor import Compositor

_GREEN, _BLUE, _BLACK = (bytes.fromhex(text) for text in ("00ff00", "0000ff", "000000"))
_SIZE = 64, 48
_TILE = WIDTH // 4, (HEIGHT - PANEL) // 2
"""Of hmi-controller: four beside each other, in two rows; here always the first row."""


@pytest.fixture
def shell(tmp_path_factory) -> Iterator[Seen]:
    lacking = [program for program in ("weston", "Xvfb") if not shutil.which(program)]
    if lacking:
        pytest.skip(f"LOUD: {', '.join(lacking)} is not installed; in-vehicle shells are NOT tested")
    compositor = Seen(tmp_path_factory.mktemp("ivi"), ivi=True)
    try:
        compositor.start()
        yield compositor
    finally:
        compositor.stop()


@pytest.fixture
def connections(monkeypatch) -> list[Compositor]:
    """Those that are made to the compositor."""
    made: list[Compositor] = []
    connect = Compositor.connect

    async def counted(self: Compositor) -> None:
        made.append(self)
        await connect(self)

    monkeypatch.setattr(Compositor, "connect", counted)
    return made


def tile(screen: Screen, number: int) -> bytes | None:
    """The colour of a picture of _SIZE in the middle of a tile, black around it; None for anything else."""
    left, (width, height) = number * _TILE[0], _TILE
    row = [screen.at(x, height // 2) for x in range(left + 4, left + width - 4)]
    column = [screen.at(left + width // 2, y) for y in range(4, height - 4)]
    colour = screen.at(left + width // 2, height // 2)
    for line, side in ((row, _SIZE[0]), (column, _SIZE[1])):
        if line.count(colour) != side or line.count(_BLACK) != len(line) - side:
            return None
    return colour


def tiles(*colours: bytes) -> Callable[[Screen], bool]:
    """These in the first tiles, whose order is the controller's business, and no other picture beside them."""
    known = {_GREEN, _BLUE, _BLACK}

    def right(screen: Screen) -> bool:
        shown = [tile(screen, number) or b"" for number in range(len(colours))]
        beside = {screen.at(x, _TILE[1] // 2) for x in range(len(colours) * _TILE[0] + 4, WIDTH)}
        return sorted(shown) == sorted(colours) and not beside & known

    return right


def present(compositor: Compositor, ivi_id: int, colour: bytes):
    """A window with a picture of one colour."""
    window = open_window(compositor, _SIZE, ivi_id=ivi_id)
    window.present(painted(compositor, *_SIZE, lambda _x, _y: colour), Crop(0, 0, *_SIZE), None)
    return window


async def show(xen: FakeXen, frontend, colours: dict[int, bytes]) -> None:  # noqa: F811
    """The guest's connectors show a colour each."""
    for index, colour in colours.items():
        first = await frontend.show(index + 1, *_SIZE, connector=index)
        for page in range(first, first + _SIZE[0] * _SIZE[1] * 4 // 4096):
            xen.page(page)[:] = (colour[::-1] + b"\0") * 1024
        assert await frontend.connectors[index].call(OP.OP_SET_CONFIG, index + 1, 0, 0, *_SIZE, 32) == 0


def refusals(caplog) -> list[dict[str, str]]:
    """What the log says of screens that aren't shown."""
    return [record.fields for record in caplog.records if record.message == "screen isn't shown"]


def test_a_controller_lays_out_surfaces_by_their_ids(shell):
    """In the size that it says, not scaled by it; one that has gone may come again."""

    async def run():
        async with connected(shell.socket) as (compositor, lost):
            first = present(compositor, 4711, _GREEN)
            await looks(shell, tiles(_GREEN), "the first surface")
            present(compositor, 4712, _BLUE)
            await looks(shell, tiles(_GREEN, _BLUE), "both")
            first.destroy()
            await looks(shell, tiles(_BLUE), "one has gone")
            present(compositor, 4711, _GREEN)
            await looks(shell, tiles(_GREEN, _BLUE), "both again")
            assert not lost
        async with connected(shell.socket) as (compositor, lost):
            present(compositor, 4711, _BLUE)
            await looks(shell, tiles(_BLUE), "the id over another connection")
            assert not lost

    asyncio.run(run())


def test_the_id_is_the_configured_one(shell):
    """Another program that asks for it is thrown out, one that asks for the next isn't."""

    async def run():
        async with connected(shell.socket) as (compositor, lost):
            present(compositor, 4711, _GREEN)
            await looks(shell, tiles(_GREEN), "the surface")
            assert await _asks(shell.socket, 4712)
            assert not await _asks(shell.socket, 4711)
            assert not lost

    asyncio.run(run())


async def _asks(path: str, ivi_id: int) -> bool:
    """Whether another client may have the id."""
    async with connected(path) as (other, _lost):
        surface = other.bound("wl_compositor").create_surface()
        role = other.bound("ivi_application").surface_create(ivi_id, surface)
        try:
            await other._sync()
        except ConnectionLost:
            return False
        role.destroy()
        surface.destroy()
        return True


def test_two_screens_with_one_id_leave_the_first_as_it_is(xen, shell, connections, caplog):  # noqa: F811
    """As [connector."*"] may give it to all: a mistake, and no reason to end the connection again and again."""

    async def run():
        screen = ConnectorConfig(ivi_id=7)
        async with serving(xen, shell.socket, _SIZE, _SIZE, screen=screen) as (worker, frontend):
            first, second = worker._devices[0].connectors
            await show(xen, frontend, {0: _GREEN, 1: _BLUE})
            await looks(shell, tiles(_GREEN), "the first screen")
            for _ in range(3):
                assert await flip(frontend.connectors[0], first, 1) < 1
            assert await flip(frontend.connectors[1], second, 2) < 3
            assert (first.counters.flips_shown, second.counters.flips_not_shown) == (3, 1)
            assert placed(second.window) is None
            await looks(shell, tiles(_GREEN), "the first screen, nothing else")
            assert len(connections) == 1 and connections[0].alive
        (said,) = refusals(caplog)
        assert said["title"] == "domu id1" and "another screen of this DomU" in said["reason"]
        assert "an ivi_id of its own" in said["remedy"]

    asyncio.run(run())


def test_an_id_that_another_program_has_ends_no_window_of_the_guest_s(xen, shell, connections, caplog):  # noqa: F811
    """It is shown once the other has gone."""
    screens = {"id0": ConnectorConfig(ivi_id=7), "id1": ConnectorConfig(ivi_id=8)}

    async def run():
        async with connected(shell.socket) as (other, lost):
            theirs = present(other, 7, _BLUE)
            await looks(shell, tiles(_BLUE), "the other program")
            connections.clear()
            async with serving(xen, shell.socket, _SIZE, _SIZE, screens=screens) as (worker, frontend):
                first, second = worker._devices[0].connectors
                await show(xen, frontend, {0: _GREEN, 1: _GREEN})
                await looks(shell, tiles(_BLUE, _GREEN), "the screen whose id is free")
                await until(lambda: refusals(caplog), "the log")
                (said,) = refusals(caplog)
                assert "another program" in said["reason"]
                assert await flip(frontend.connectors[1], second, 2) < 1
                assert await flip(frontend.connectors[0], first, 1) < 3
                assert (second.counters.flips_shown, first.counters.flips_not_shown) == (1, 1)
                theirs.destroy()
                await looks(shell, tiles(_GREEN, _GREEN), "both screens")
                assert await flip(frontend.connectors[0], first, 1) < 1
                assert first.counters.flips_shown == 1
                assert len(connections) == 1 and connections[0].alive and not lost

    asyncio.run(run())


def test_an_id_that_is_free_soon_is_no_error(shell, monkeypatch, caplog):
    """The idle picture's window goes as the guest's comes."""
    answers: list[str] = []
    ask = claim.Claim._obstacle

    async def asked(self: claim.Claim) -> str:
        answers.append(await ask(self))
        return answers[-1]

    monkeypatch.setattr(claim.Claim, "_obstacle", asked)
    monkeypatch.setattr(claim, "_FIRST_PAUSE", 1.0)

    async def run():
        async with connected(shell.socket) as (other, _lost), connected(shell.socket) as (compositor, lost):
            theirs = present(other, 7, _BLUE)
            await looks(shell, tiles(_BLUE), "the window that goes")
            present(compositor, 7, _GREEN)
            await until(lambda: len(answers) == 2, "a refusal")
            theirs.destroy()
            await looks(shell, tiles(_GREEN), "the window that comes")
            assert answers == ["", claim._OTHERS, ""] and not lost

    asyncio.run(run())
    assert not refusals(caplog)


def test_the_shell_that_comes_after_another_shows_the_same(xen, shell):  # noqa: F811
    async def run():
        async with serving(xen, shell.socket, _SIZE, screen=ConnectorConfig(ivi_id=7)) as (_worker, frontend):
            await show(xen, frontend, {0: _GREEN})
            await looks(shell, tiles(_GREEN), "the screen")
            await asyncio.to_thread(shell.stop)
            await asyncio.to_thread(shell.start)
            await looks(shell, tiles(_GREEN), "the screen again")

    asyncio.run(run())


def test_a_shell_that_does_not_answer_is_asked_again(shell, monkeypatch, caplog):
    monkeypatch.setattr(limits, "SETUP", 0.1)

    async def run():
        async with connected(shell.socket) as (compositor, lost):
            shell.freeze()
            present(compositor, 4711, _GREEN)
            await until(lambda: refusals(caplog), "the log")
            shell.thaw()
            await looks(shell, tiles(_GREEN), "the surface")
            (said,) = refusals(caplog)
            assert "no answer in 0.1 s" in said["reason"] and "remedy" not in said
            assert not lost and compositor.ivi_ids == {4711}

    asyncio.run(run())


def test_a_window_that_goes_before_its_turn_asks_no_more(shell):
    """And its id is free for the next."""

    async def run():
        async with connected(shell.socket) as (compositor, lost):
            shell.freeze()
            early = present(compositor, 4711, _BLUE)
            await until(lambda: compositor.ivi_ids, "the question")
            question = early._claim._task
            early.destroy()
            assert not compositor.ivi_ids
            shell.thaw()
            await until(question.done, "its end")
            assert question.cancelled()
            present(compositor, 4711, _GREEN)
            await looks(shell, tiles(_GREEN), "the later window")
            assert not lost

    asyncio.run(run())
