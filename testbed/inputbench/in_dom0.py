# SPDX-License-Identifier: MIT
"""What `make input-bench` does in Dom0, as root, beside lib/oeqa/files/xen_dmabuf_hands.py:

    python3 in_dom0.py offset TTY
    python3 in_dom0.py hands EVENTS PAUSE SECONDS RATE WORKER WESTON
    python3 in_dom0.py idle SECONDS WORKER WESTON

prints one JSON object. ``offset``: pairs of nanoseconds, of a question to a DomU's shell and how far the DomU's
clock is ahead, if the answer was written half way. ``hands``: a keyboard and a tablet do EVENTS things each, PAUSE
seconds apart, then a mouse moves RATE times a second; when they happened by Dom0's evdev, and what that cost.
``idle``: CPU while nothing is done.
"""

from __future__ import annotations

import glob
import json
import os
import select
import struct
import sys
import time
import tty
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oeqa.files import xen_dmabuf_hands as hands
else:
    import xen_dmabuf_hands as hands

PINGS = 300
KEY, BUTTON = 30, 0x110
CLICK_EVERY = 100
EVENT = struct.Struct("@qqHHi")
# no process is started for an answer; the DomU's terminal must not echo the question
ANSWERER = (
    "exec bash --norc --noprofile -c 'stty -echo; echo READY; "
    "while read -r x && [ $x ]; do echo $EPOCHREALTIME; done; stty echo; exec sh'\n"
)


def cpu(pid: int) -> int:
    """Nanoseconds of a process, all its threads."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def offset(path: str) -> dict[str, Any]:
    """How far the DomU's clock is ahead, by PINGS questions."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    os.write(fd, ANSWERER.encode())
    seen = b""
    while b"READY\r\n" not in seen and b"READY\n" not in seen:
        seen += _read(fd)
    pings = []
    for _ in range(PINGS):
        asked = time.time_ns()
        os.write(fd, b"x\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += _read(fd)
        heard = time.time_ns()
        seconds, fraction = answer.split()[0].split(b".")
        there = int(seconds) * 10**9 + int(fraction) * 1000
        pings.append((heard - asked, there - (asked + heard) // 2))
    os.write(fd, b"\n")
    os.close(fd)
    return {"pings": pings}


def _read(fd: int) -> bytes:
    if not select.select([fd], [], [], 20)[0]:
        raise SystemExit("the DomU's shell doesn't answer")
    return os.read(fd, 4096)


class Listener:
    """Dom0's own evdev of a device of the hands."""

    def __init__(self, name: str) -> None:
        for path in glob.glob("/sys/class/input/event*/device/name"):
            with open(path, encoding="ascii") as found:
                if found.read().strip() == name:
                    node = f"/dev/input/{path.split('/')[4]}"
        self._fd = os.open(node, os.O_RDONLY | os.O_NONBLOCK)

    def first(self, kind: int) -> int:
        """When the next event of a type happened; what follows it till now is dropped."""
        select.select([self._fd], [], [], 5)
        for seconds, micros, found, _code, _value in EVENT.iter_unpack(os.read(self._fd, 64 * EVENT.size)):
            if found == kind:
                return int(seconds * 10**9 + micros * 1000)
        raise SystemExit(f"Dom0's evdev has no event of type {kind}")


def clock(path_seconds: float, *pids: int) -> dict[str, Any]:
    """CPU while nothing is done."""
    before, began = [cpu(pid) for pid in pids], time.monotonic_ns()
    time.sleep(path_seconds)
    passed = time.monotonic_ns() - began
    return {"passed": passed, "cpu": [cpu(pid) - used for pid, used in zip(pids, before, strict=True)]}


def play(events: int, pause: float, seconds: float, rate: int, *pids: int) -> dict[str, Any]:
    """All that hands do."""
    keyboard, tablet, mouse = hands.keyboard(), hands.tablet(), hands.mouse()
    names = "xen-dmabuf test keyboard", "xen-dmabuf test tablet"
    time.sleep(3)  # udev names the nodes, Weston opens them
    keys, places = map(Listener, names)
    hands.say(tablet, (hands.EV_ABS, 0, 100), (hands.EV_ABS, 1, 100))
    places.first(hands.EV_ABS)
    time.sleep(1)
    marks: dict[str, list[int]] = {"key": [], "place": [], "x": []}
    for number in range(events):
        hands.say(keyboard, (hands.EV_KEY, KEY, 1 - number % 2))
        marks["key"].append(keys.first(hands.EV_KEY))
        time.sleep(pause)
        at = 1000 + number * (hands.LARGEST - 2000) // events
        hands.say(tablet, (hands.EV_ABS, 0, at), (hands.EV_ABS, 1, hands.LARGEST - at))
        marks["place"].append(places.first(hands.EV_ABS))
        marks["x"].append(at)
        time.sleep(pause)
    time.sleep(1)
    return {"marks": marks, "mouse": move(mouse, seconds, rate, *pids)}


def move(mouse: int, seconds: float, rate: int, *pids: int) -> dict[str, Any]:
    """A mouse that moves at a rate, and clicks now and then."""
    before, began = [cpu(pid) for pid in pids], time.monotonic_ns()
    total = int(seconds * rate)
    clicks = 0
    for number in range(total):
        at = began + number * 10**9 // rate
        left = at - time.monotonic_ns()
        if left > 0:
            time.sleep(left / 1e9)
        step = 3 if number // 50 % 2 else -3
        events = [(hands.EV_REL, hands.REL_X, step), (hands.EV_REL, hands.REL_Y, step)]
        if number % (CLICK_EVERY // 2) == 0:
            down = 1 - number // (CLICK_EVERY // 2) % 2
            clicks += down
            events.append((hands.EV_KEY, BUTTON, down))
        hands.say(mouse, *events)
    hands.say(mouse, (hands.EV_KEY, BUTTON, 0))
    passed = time.monotonic_ns() - began
    time.sleep(2)  # what is still on its way belongs to it
    used = [cpu(pid) - first for pid, first in zip(pids, before, strict=True)]
    return {"events": total, "clicks": clicks, "passed": passed, "cpu": used}


def main(what: str, *words: str) -> None:
    """Print the answer."""
    if what == "offset":
        answer = offset(words[0])
    elif what == "idle":
        answer = clock(float(words[0]), *map(int, words[1:]))
    else:
        events, pause, seconds, rate, *pids = words
        answer = play(int(events), float(pause), float(seconds), int(rate), *map(int, pids))
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
