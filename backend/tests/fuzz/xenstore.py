# SPDX-License-Identifier: MIT
"""What toolstack, frontends and workers may do to the supervisor, in any order, on a xenstored with errors.

The supervisor and its XenStore are the real ones; Xs is the binding of xenstored below, Liar the worker's link.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections import deque
from collections.abc import Iterator

from xen_dmabuf.codec import CodecError
from xen_dmabuf.config import Config, Quota
from xen_dmabuf.displif.spec import ConnectorSpec
from xen_dmabuf.kbdif.spec import InputSpec
from xen_dmabuf.link.messages import (
    AskStatus,
    Connect,
    Connected,
    ConnectInput,
    Disconnect,
    Disconnected,
    DisconnectInput,
    Failed,
    Held,
    HeldInput,
    Hello,
    InputConnected,
    InputDisconnected,
    InputRefused,
    Message,
    Ready,
    Refused,
    Report,
    Start,
)
from xen_dmabuf.supervisor import supervisor as module
from xen_dmabuf.supervisor.supervisor import Supervisor
from xen_dmabuf.supervisor.xenstore import XenStore

from .base import Faults, Target, Wrong, check, patched, run, settle, strict_log

_FOLDER = "/local/domain/0/backend/vdispl"
_INPUTS = "/local/domain/0/backend/vinput"
_FOLDERS = (_FOLDER, _INPUTS)
_ERRORS = tuple(folder.replace("/0/", "/0/error/") for folder in _FOLDERS)
_RELEASE = "@releaseDomain"
_FAULTS = (errno.EIO, errno.ENOMEM, errno.ENOSPC, errno.EINVAL, errno.EPERM, errno.EBUSY, errno.EMFILE, errno.ENFILE)
_DOMAINS, _DEVICES = (1, 3, 7), (0, 1)
_MAY_SAY = {b"2", b"4", b"5", b"6"}
_INPUT = InputSpec(12, 13, "id0", "id0")
_FEATURES = ("unique-id", "feature-disable-pointer", "feature-multi-touch", "width", "multi-touch-num-contacts")
_REFS = ("req-ring-ref", "req-event-channel", "evt-ring-ref", "evt-event-channel")


class Xs:
    """xen.lowlevel.xs: nodes are bytes. ``meanwhile`` is what others do while a transaction is open."""

    class Error(Exception):
        pass

    def __init__(self, chance: random.Random, faults: Faults) -> None:
        self.nodes: dict[str, bytes] = {}
        self.watches: list[str] = []
        self._tokens: dict[str, str] = {}
        self.queue: deque[str] = deque()
        self.on_fire = lambda: None
        self.meanwhile = lambda: None
        self._chance, self._faults = chance, faults
        self._transactions: dict[str, dict[str, bytes]] = {}
        self._number = 0

    # -- as others use it

    def put(self, path: str, value: bytes) -> None:
        self.nodes[path] = value
        self.fire(path)

    def drop(self, path: str) -> None:
        for node in [node for node in self.nodes if node == path or node.startswith(path + "/")]:
            del self.nodes[node]
        self.fire(path)

    def fire(self, path: str) -> None:
        self.queue.extend(path for watch in self.watches if path == watch or path.startswith(watch + "/"))
        self.queue.extend(watch for watch in self.watches if watch.startswith(path + "/"))
        if self.queue:
            self.on_fire()

    # -- as the supervisor does

    def _may_fail(self) -> None:
        try:
            self._faults.strike("")
        except OSError as error:
            raise self.Error(error.errno, error.strerror) from None

    def _there(self, path: str) -> None:
        if path not in self.nodes and not any(node.startswith(path + "/") for node in self.nodes):
            raise self.Error(errno.ENOENT, "No such file or directory")

    def read(self, _transaction: str, path: str) -> bytes:
        self._may_fail()
        self._there(path)
        return self.nodes.get(path, b"")

    def ls(self, _transaction: str, path: str) -> list[str]:
        self._may_fail()
        self._there(path)
        start = len(path) + 1
        return sorted({node[start:].split("/")[0] for node in self.nodes if node.startswith(path + "/")})

    def write(self, transaction: str, path: str, value: str) -> None:
        self._may_fail()
        encoded = value.encode()
        if path.endswith("/state"):
            check(path.startswith(_FOLDERS) and encoded in _MAY_SAY and path in self.nodes, "a state", path, value)
        else:
            check(
                path.startswith(_ERRORS) or path.endswith(("/versions", "/feature-write-back")),
                "a node that isn't ours",
                path,
            )
        if transaction:
            self._transactions[transaction][path] = encoded
        else:
            self.put(path, encoded)

    def transaction_start(self) -> str:
        self._may_fail()
        self._number += 1
        self._transactions[str(self._number)] = {}
        return str(self._number)

    def transaction_end(self, transaction: str, abort: bool) -> bool:
        written = self._transactions.pop(transaction)
        self._may_fail()
        if abort:
            return True
        if self._faults.rate and self._chance.random() < 0.1:
            self.meanwhile()
            return False
        for path, value in written.items():
            self.put(path, value)
        return True

    def rm(self, _transaction: str, path: str) -> None:
        self._may_fail()
        check(path.startswith(_ERRORS), "a node that isn't ours to remove", path)
        self._there(path)
        self.drop(path)

    def watch(self, path: str, token: str) -> None:
        self._may_fail()
        if path in self.watches:
            raise self.Error(errno.EEXIST, "File exists")
        self.watches.append(path)
        self._tokens[path] = token
        self.queue.append(path)
        self.on_fire()

    def unwatch(self, path: str, token: str) -> None:
        """xs.c sends the address of the token."""
        self._may_fail()
        if path not in self.watches or self._tokens[path] is not token:
            raise self.Error(errno.ENOENT, "No such file or directory")
        self.watches.remove(path)

    def check_watch(self) -> tuple[str, str] | None:
        """An error of another kind would be the connection's end (Supervisor._fail)."""
        if self._chance.random() < 0.02:
            raise self.Error(errno.EAGAIN, "Resource temporarily unavailable")
        return (self.queue.popleft(), "") if self.queue else None


class Liar:
    """A worker's link, as supervisor.child.Child is one: what on_message() doesn't take ends it, and then
    there is another worker, which has nothing or what the last one had."""

    chance: random.Random
    made: list[Liar]
    honest = False
    specs: dict[int, tuple[ConnectorSpec, ...]]

    def __init__(self, domid, _units, on_message, on_lost):
        self.domid, self.pid = domid, 1
        self._on_message, self._on_lost = on_message, on_lost
        self._up = self._serving = False
        self._loop = asyncio.get_running_loop()
        self.started = False
        self.held: dict[int, tuple[ConnectorSpec, ...]] = {}
        self.inputs: dict[int, InputSpec] = {}
        self.made.append(self)

    def begin(self) -> None:
        self._up = True
        self._loop.call_soon(self._hello)

    def leave(self) -> None:
        self._up = self._serving = False

    async def stop(self) -> None:
        self.leave()
        self.started = False
        self.held.clear()
        self.inputs.clear()
        await asyncio.sleep(self.chance.choice((0, 0, 0.1)))

    def send(self, message: Message) -> None:
        if self._serving:
            self._loop.call_later(self.chance.choice((0, 0, 0.001, 0.3)), self._answer, message)

    def _hello(self) -> None:
        if not self._up or self._serving:
            return
        self._serving = True
        held = tuple(Held(number, specs) for number, specs in self.held.items())
        inputs = tuple(HeldInput(number, spec) for number, spec in self.inputs.items())
        self.say(Hello(self.domid, Config(), held, inputs) if self.started else Hello(-1))

    def _answer(self, message: Message) -> None:
        kept = self.honest or self.chance.random() < 0.9
        if isinstance(message, Start):
            self.started = True
            self.say(Ready())
        elif isinstance(message, AskStatus):
            self.say(Report())
        elif not kept:
            return  # it keeps silent
        elif isinstance(message, Connect):
            if self.honest or self.chance.random() < 0.8:
                self.held[message.device] = message.connectors
                self.say(Connected(message.device))
            else:
                self.say(Refused(message.device, "no"))
        elif isinstance(message, ConnectInput):
            if self.honest or self.chance.random() < 0.8:
                self.inputs[message.device] = message.spec
                self.say(InputConnected(message.device))
            else:
                self.say(InputRefused(message.device, "no"))
        elif isinstance(message, DisconnectInput):
            self.inputs.pop(message.device, None)
            self.say(InputDisconnected(message.device))
        elif isinstance(message, Disconnect):
            self.held.pop(message.device, None)
            self.say(Disconnected(message.device, self.chance.random() < 0.5))

    def say(self, message: Message) -> None:
        if not self._serving:
            return
        try:
            self._on_message(message)
        except (CodecError, OSError):
            self.die(self.chance.random() < 0.5)

    def die(self, keeping: bool) -> None:
        """``keeping``: its successor goes on with what it had."""
        if not self._serving:
            return
        self._serving = False
        if not keeping:
            self.started = False
            self.held.clear()
            self.inputs.clear()
        self._on_lost()
        self._loop.call_later(0.05, self._hello)

    def lie(self) -> None:
        """Any message that there is, whether it makes sense or not."""
        chance = self.chance
        device = chance.choice((0, 0, 1, 2, 99_999))
        held = tuple(Held(number, self.specs[0]) for number in chance.sample((0, 1, 5), chance.randrange(3)))
        self.say(
            chance.choice(
                (
                    Hello(-1),
                    Hello(chance.choice((self.domid, self.domid, 3)), Config(), held),
                    Hello(self.domid, Config(), held, (HeldInput(chance.choice((0, 5)), _INPUT),)),
                    InputConnected(device),
                    InputRefused(device, "\n\u2028lie"),
                    InputDisconnected(device),
                    Ready(),
                    Connected(device),
                    Refused(device, "\n\u2028lie"),
                    Failed(device, "lie" * 100),
                    Disconnected(device, True),
                    Disconnected(device, False),
                    Report(),
                )
            )
        )


class Units:
    async def stop(self, _domid: int) -> None:
        pass


class _World:
    """Toolstack, frontends, and the supervisor between them."""

    def __init__(self, chance: random.Random, xs: Xs, faults: Faults) -> None:
        self.chance, self.xs, self.faults = chance, xs, faults
        self.inputs = 0
        store = XenStore.__new__(XenStore)
        store._xs, store._error, store._tokens = xs, Xs.Error, {}
        quota = Quota(connectors=chance.choice((1, 2, 4)), width=chance.choice((800, 8192)))
        self.config = Config(quota={"default": quota})
        self.supervisor = Supervisor(self.config, store, lambda: self.config, Units())  # type: ignore[arg-type]
        self._pumping = False
        self._loop = asyncio.get_running_loop()
        self._ref = 0
        xs.on_fire = self._fired
        xs.meanwhile = self.act
        Liar.chance, Liar.made, Liar.honest = chance, [], False
        Liar.specs = {0: (ConnectorSpec(0, "id0", 640, 480, 1, 2, 3, 4),)}

    def _fired(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """As the event loop, which calls as long as there is something to read."""
        self._pumping = False
        self.supervisor.on_watch()
        if self.xs.queue:
            self._fired()

    # -- what others do

    def _device(self) -> tuple[str, str]:
        domid, number = self.chance.choice(_DOMAINS), self.chance.choice(_DEVICES)
        return f"{_FOLDER}/{domid}/{number}", f"/local/domain/{domid}/device/vdispl/{number}"

    def create(self, back: str, front: str) -> None:
        """As libxl does, in one transaction."""
        domid = back.split("/")[-2]
        self.xs.nodes |= {
            f"/local/domain/{domid}/domid": domid.encode(),
            f"/local/domain/{domid}/name": self.chance.choice((b"domu", b'\xff\n "', b"x" * 100)),
            f"{back}/frontend": front.encode(),
            f"{back}/online": b"1",
            f"{back}/state": b"1",
            f"{front}/state": b"1",
            f"{front}/be-alloc": b"0",
            f"{front}/0/resolution": b"640x480",
            f"{front}/0/unique-id": b"id0",
        }
        self.xs.fire(back)
        self.xs.fire(front)

    def publish(self, front: str) -> None:
        self._ref += 10
        for number, node in enumerate(_REFS):
            self.xs.put(f"{front}/0/{node}", str(self._ref + number).encode())

    def _act_on_input(self) -> None:
        """The same for an input device."""
        chance, xs = self.chance, self.xs
        domid, number = chance.choice(_DOMAINS), chance.choice(_DEVICES)
        back, front = f"{_INPUTS}/{domid}/{number}", f"/local/domain/{domid}/device/vkbd/{number}"
        kind = chance.random()
        if kind < 0.3:
            self.create_input(back, front)
        elif kind < 0.6:
            for node in ("page-gref", "event-channel"):
                self._ref += 1
                xs.put(f"{front}/{node}", str(self._ref).encode())
            xs.put(f"{front}/state", chance.choice((b"3", b"3", b"4", b"6")))
        elif kind < 0.75:
            xs.put(f"{front}/state", str(chance.choice((1, 3, 4, 5, 6, 0))).encode())
        elif kind < 0.82:
            xs.put(f"{back}/online", b"0")
            xs.put(f"{back}/state", b"5")
        elif kind < 0.9:
            xs.drop(chance.choice((back, front, f"{back}/state")))
        elif chance.random() < 0.5:
            xs.put(f"{front}/{chance.choice(('state', 'page-gref', 'request-abs-pointer'))}", self._garbage())
        else:
            xs.put(f"{back}/{chance.choice(_FEATURES)}", self._garbage())

    def create_input(self, back: str, front: str) -> None:
        domid = back.split("/")[-2]
        self.xs.nodes |= {
            f"/local/domain/{domid}/domid": domid.encode(),
            f"{back}/frontend": front.encode(),
            f"{back}/online": b"1",
            f"{back}/state": b"1",
            f"{front}/state": b"1",
        }
        self.xs.fire(back)
        self.xs.fire(front)

    def _garbage(self) -> bytes:
        chance = self.chance
        return chance.choice(
            (
                b"",
                b"0",
                b"1",
                b"4294967296",
                b"-1",
                b" 4",
                b"4\0",
                b"0x10",
                b"\xd9\xa4",
                b"\xff\xfe",
                b"9" * 70,
                b"640x480",
                b"0x0",
                b"99999x1",
                b"\n",
                b"=\x1b[2J",
                chance.randbytes(chance.randrange(80)),
                str(chance.randrange(12)).encode(),
            )
        )

    def act(self) -> None:
        """One thing that anybody may write or remove."""
        chance, xs = self.chance, self.xs
        back, front = self._device()
        self.inputs += 1
        kind = chance.random()
        if chance.random() < 0.25:
            self._act_on_input()
        elif kind < 0.12:
            self.create(back, front)
        elif kind < 0.30:
            self.publish(front)
            xs.put(f"{front}/state", b"3")
        elif kind < 0.60:
            xs.put(f"{front}/state", str(chance.choice((1, 1, 3, 4, 5, 6, 7, 8, 0))).encode())
        elif kind < 0.64:
            xs.put(f"{back}/online", chance.choice((b"0", b"1")))
            xs.put(f"{back}/state", chance.choice((b"5", b"6", b"1")))
        elif kind < 0.70:
            xs.drop(chance.choice((back, front, f"{front}/state", f"{back}/state", back.rsplit("/", 1)[0])))
        elif kind < 0.73:
            xs.drop(f"/local/domain/{chance.choice(_DOMAINS)}")
            xs.queue.append(_RELEASE)
            self._fired()
        elif kind < 0.75:
            strange = (
                "x",
                "3/x/state",
                "3/99999/state",
                "3/123456/state",
                "\u0663/0/state",
                "00003/0/state",
                "40000/0/state",
            )
            path = f"{_FOLDER}/{chance.choice(strange)}"
            if chance.random() < 0.5:
                xs.put(path, self._garbage())
            else:
                xs.drop(path)
        else:
            nodes = ("state", "be-alloc", "0/resolution", "0/unique-id", "1/resolution", *(f"0/{ref}" for ref in _REFS))
            path = (
                f"{front}/{chance.choice(nodes)}"
                if chance.random() < 0.8
                else f"{back}/{chance.choice(('state', 'online', 'frontend', 'versions'))}"
            )
            xs.put(path, self._garbage())

    def worker(self) -> None:
        """One thing that a worker may do."""
        if not Liar.made:
            return
        self.inputs += 1
        child = self.chance.choice(Liar.made[-4:])
        if self.chance.random() < 0.2:
            child.die(self.chance.random() < 0.5)
        else:
            child.lie()

    # -- a session

    async def run(self) -> int:
        chance = self.chance
        for folder in _FOLDERS:
            self.xs.watch(folder, "")
        self.xs.watch(_RELEASE, "")
        self.supervisor.rescan()
        self.faults.rate = chance.choice((0.0, 0.0, 0.02, 0.1, 0.3))
        lies = chance.choice((0.0, 0.1, 0.4))
        for _ in range(chance.randrange(10, 200)):
            if chance.random() < lies:
                self.worker()
            else:
                self.act()
            if chance.random() < 0.7:
                await asyncio.sleep(chance.choice((0, 0, 0, 0, 0.001, 0.001, 0.5, 4)))
        self.faults.rate = 0.0
        if chance.random() < 0.5:
            Liar.honest = True
            await self._recover()
        await self._end()
        return self.inputs

    async def _recover(self) -> None:
        """Whatever was before: with all of good will, every device connects."""
        pairs = [
            (f"{_FOLDER}/{domid}/{number}", f"/local/domain/{domid}/device/vdispl/{number}")
            for domid in self.chance.sample(_DOMAINS, 2)
            for number in _DEVICES
        ]
        if self.chance.random() < 0.5:
            self._clean()
        for back, front in pairs:
            for node in [node for node in self.xs.nodes if node.startswith((back + "/", front + "/"))]:
                del self.xs.nodes[node]  # unseen: the next watch finds the new device already
            self.create(back, front)
        self.xs.queue.append(_RELEASE)  # a domain's number isn't given to another one this soon
        fronts = [_Mainline(self, *pair) for pair in pairs]
        await settle(lambda: all([front.step() for front in fronts]), "that all devices connect", 120)

    def _clean(self) -> None:
        """All domains and devices are gone, as `xl destroy` leaves it."""
        for path in [
            node
            for node in self.xs.nodes
            if node.startswith("/local/domain/") and not node.startswith("/local/domain/0/error")
        ]:
            self.xs.nodes.pop(path)
        for folder in _FOLDERS:
            self.xs.fire(folder)
        self.xs.queue.append(_RELEASE)
        self._fired()

    async def _end(self) -> None:
        self._clean()
        supervisor = self.supervisor
        await settle(lambda: not supervisor._domains and not supervisor._tasks, "that all domains are forgotten", 120)
        check(sorted(self.xs.watches) == sorted((*_FOLDERS, _RELEASE)), "watches are left", self.xs.watches)
        check(not any(child._up for child in Liar.made), "workers are left")
        supervisor.leave()


class _Mainline:
    """drm_xen_front's displback_changed(), looked at again and again."""

    def __init__(self, world: _World, back: str, front: str) -> None:
        self._world, self._back, self._front = world, back, front
        self._state, self._drm = 1, False

    def _say(self, state: int) -> None:
        self._state = state
        self._world.xs.put(f"{self._front}/state", str(state).encode())

    def step(self) -> bool:
        """Whether it is connected."""
        back = int(self._world.xs.nodes.get(f"{self._back}/state", b"0"))
        if back in (1, 2) and self._drm:
            self._say(7)
            self._drm = False
            self._say(1)
        elif back == 2 and self._state == 1:
            self._world.publish(self._front)
            self._say(3)
        elif back == 4 and self._state == 3:
            self._drm = True
            self._say(4)
        elif back in (0, 6) and self._drm:
            self._drm = False
            self._say(7)
            self._say(1)
        return (back, self._state) == (4, 4)


@contextlib.contextmanager
def _edges() -> Iterator[None]:
    with patched() as patch, strict_log():
        patch.setattr(module, "Child", Liar)
        yield


async def _begin(chance: random.Random) -> int:
    faults = Faults(chance, _FAULTS)
    return await _World(chance, Xs(chance, faults), faults).run()


class Xenstore(Target):
    """An input is a node that is written or removed, or a message of a worker."""

    name = "xenstore"

    def session(self, chance: random.Random) -> int:
        with _edges():
            inputs = run(_begin(chance))
        if not isinstance(inputs, int):
            raise Wrong("no session")
        return inputs
