# SPDX-License-Identifier: MIT
"""The command: boots, has somebody type, point and move a mouse in Dom0, and reads what the DomU hears."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oeqa.runtime.xen_dmabuf.dom0 import TOOLS, poll
from oeqa.runtime.xen_dmabuf.dom0 import Dom0 as ImageDom0
from oeqa.runtime.xen_dmabuf.domu import DomU

from .. import layout, machine
from ..cache import say
from ..errors import ProofError
from ..guest import Dom0, Target
from .figures import BUTTON, KEY, Heard, latencies, line, load, offset

SCREEN = (800, 600)
NAME = "xen-dmabuf-input"
FILES = (layout.HANDS, Path(__file__).with_name("in_dom0.py"))
EVENTS, PAUSE = 200, 0.06
MOUSE_SECONDS, MOUSE_RATE = 10, 1000
IDLE_SECONDS = 10
VKB = (
    f'["backend=Domain-0,backend-type=linux,unique-id=id0,feature-abs-pointer=1,width={SCREEN[0]},height={SCREEN[1]}"]'
)
SETTINGS = f'[connector."{NAME}.id0"]\nplacement = "fullscreen"\nkeyboard = "always"\n'
DEVICES = ("Keyboard", "Pointer")


class Bench:
    """A DomU that fills Dom0's screen, and hands in Dom0."""

    def __init__(self, dom0: ImageDom0) -> None:
        self._dom0 = dom0
        self._domu = DomU(dom0, NAME, 1)

    def begin(self) -> None:
        """The DomU shows a picture that it hasn't flipped to, and keeps what its devices say."""
        self._dom0.prepare()
        for file in FILES:
            self._dom0.target.copyTo(str(file), f"{TOOLS}/{file.name}")
        self._dom0.configure_backend(SETTINGS)
        self._domu.start(vkb=VKB, size=f"{SCREEN[0]}x{SCREEN[1]}")
        poll(lambda: self._inputs()["backend_state"] == 4, 60, "the DomU's input device")
        for name in DEVICES:
            named = f"grep -l 'Virtual {name}' /sys/class/input/event*/device/name"
            poll(lambda named=named: self._domu.try_run(named)[0] == 0, 60, name)  # type: ignore[misc]
            node = f"/dev/input/$(basename $(dirname $(dirname $({named}))))"
            self._domu.run(f"(exec 3< {node}; cat <&3 > /tmp/{name} &)")

    def end(self) -> None:
        """The DomU and the configuration for it go."""
        self._domu.destroy()
        self._dom0.restore_backend()

    def _state(self) -> Any:
        return poll(self._domu.backend, 60, "the DomU in the backend")

    def _inputs(self) -> Any:
        return next(iter(self._state()["inputs"]), {"backend_state": 0})

    def _pids(self) -> str:
        return f"{self._domu.worker()} {self._dom0.main_pid('weston')}"

    def _ask(self, words: str, seconds: float) -> Any:
        return json.loads(self._dom0.run(f"cd {TOOLS}; python3 in_dom0.py {words}", seconds).splitlines()[-1])

    def _offset(self) -> Any:
        tty = self._dom0.run(f"xenstore-read /local/domain/{self._domu.domid}/console/tty").strip()
        return self._ask(f"offset {tty}", 120)["pings"]

    def heard(self, name: str) -> Heard:
        """All that a device of the DomU has said."""
        text = self._domu.run(f"od -An -v -tx1 /tmp/{name} | tr -d ' \\n'", 120)
        return Heard.of(bytes.fromhex(text.strip()))

    def idle(self, refreshing: bool) -> Any:
        """CPU while the DomU does nothing, before and after its first flip."""
        (connector,) = self._state()["devices"][0]["connectors"]
        if connector["refreshing"] is not refreshing:
            raise ProofError(f"refreshing is {connector['refreshing']}, not {refreshing}")
        return self._ask(f"idle {IDLE_SECONDS} {self._pids()}", IDLE_SECONDS + 60)

    def measure(self) -> dict[str, Any]:
        """All of it, as it was seen."""
        say("a DomU that draws without flips, and does nothing")
        seen: dict[str, Any] = {"refreshed": self.idle(True)}
        self._domu.screens("flip 1")
        say("the same after a flip")
        seen["idle"] = self.idle(False)
        seen["pings"] = [self._offset()]
        say("keys, the pointer, the mouse")
        before = self._inputs()
        seen |= self._ask(f"hands {EVENTS} {PAUSE} {MOUSE_SECONDS} {MOUSE_RATE} {self._pids()}", 300)
        after = self._inputs()
        seen["counted"] = {
            name: after[f"events_{name}"] - before[f"events_{name}"] for name in ("sent", "coalesced", "dropped")
        }
        seen["pings"].append(self._offset())
        return seen


def report(seen: dict[str, Any], keys: Heard, pointer: Heard) -> str:
    """Markdown; ProofError if anything was lost that must not be."""
    first, last = map(offset, seen["pings"])
    ahead, wrong = (first.ahead + last.ahead) / 2, max(first.wrong, last.wrong) + abs(last.ahead - first.ahead) / 2
    took_key = latencies(seen["marks"]["key"], keys.keys(KEY), ahead, "keys")
    arrived = pointer.arrivals(seen["marks"]["x"], SCREEN[0])
    took_place = latencies(seen["marks"]["place"], arrived, ahead, "places")
    mouse, counted = seen["mouse"], seen["counted"]
    pressed, released = pointer.presses(BUTTON)
    if pressed != released or keys.presses(KEY) != (EVENTS // 2, EVENTS // 2):
        raise ProofError(f"button: {pressed} times pressed, {released} released; key: {keys.presses(KEY)}")
    worker, weston = load(mouse)
    seconds = mouse["passed"] / 1e9
    refreshed, idle = load(seen["refreshed"]), load(seen["idle"])
    return "\n".join(
        [
            "| | events | median, ms | 95 % | worst | within a frame, 16.7 ms |",
            "|---|--:|--:|--:|--:|--:|",
            line("a key", took_key),
            line("the pointer", took_place),
            "",
            f"The difference of the two clocks is known to ±{wrong / 1e6:.1f} ms.",
            "",
            f"A mouse that moved {mouse['events']:,} times in {seconds:.1f} s: {len(pointer.places()):,} reports "
            f"with a place in the DomU since its start; of this DomU's events {counted['sent']:,} were sent, "
            f"{counted['coalesced']:,} coalesced, {counted['dropped']} dropped. {mouse['clicks']} clicks meanwhile: "
            f"{pressed} were heard pressed, {released} released. The worker used {worker:.0f} % of a CPU, "
            f"Weston {weston:.0f} %.",
            "",
            "| a DomU that does nothing | worker, % of a CPU | Weston |",
            "|---|--:|--:|",
            f"| before its first flip: shown again and again | {refreshed[0]:.1f} | {refreshed[1]:.1f} |",
            f"| after its first flip | {idle[0]:.1f} | {idle[1]:.1f} |",
        ]
    )


def measure(dom0: Dom0, folder: Path) -> str:
    """The report; ``folder`` keeps what was seen. ProofError."""
    bench = Bench(ImageDom0(Target(dom0)))
    bench.begin()
    try:
        seen = bench.measure()
        (folder / "bench.json").write_text(json.dumps(seen) + "\n", encoding="utf-8")
        devices = [bench.heard(name) for name in DEVICES]
    finally:
        bench.end()
    for name, heard in zip(DEVICES, devices, strict=True):
        (folder / f"{name}.json").write_text(json.dumps(heard.events) + "\n", encoding="utf-8")
    return report(seen, *devices)


def run(folder: Path) -> None:
    """Boot, measure, write bench.json and bench.md. Raises TestbedError and ProofError."""
    with machine.boot(machine.build(), folder, SCREEN) as (_qemu, dom0):
        text = measure(dom0, folder)
    (folder / "bench.md").write_text(text + "\n", encoding="utf-8")
    print(text)
