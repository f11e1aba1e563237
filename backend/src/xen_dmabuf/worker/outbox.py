# SPDX-License-Identifier: MIT
"""Input events on their way to a DomU: what its page has no room for waits here.

51 events fit on a page, and a DomU may read late or never. So motion is coalesced, and where too much
waits a press is dropped, but never what ends one: a key that stays pressed is worse than one that was
never there. What waits is bounded, whatever the DomU does and whatever is typed. Asyncio thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from ..eventpage import RingError
from ..kbdif import packets
from ..kbdif.page import InputPage

MOST_WAITING = 256
"""Entries, beyond which no press is taken. What ends those that were taken comes on top."""

Touch = tuple[int, int, int, int]
"""MT_EV_* but SYN, contact, x, y."""


class _Entry:
    """What is written in one go, or event by event if there isn't room for all."""

    def __init__(self) -> None:
        self.begun = False

    def first(self) -> bytes:
        """The next event."""
        raise NotImplementedError

    def advance(self) -> bool:
        """The next event is written; whether that was the last one."""
        return True


class _Key(_Entry):
    def __init__(self, code: int, pressed: bool) -> None:
        super().__init__()
        self._packet = packets.pack_key(code, pressed)

    def first(self) -> bytes:
        return self._packet


class _Motion(_Entry):
    def __init__(self, absolute: bool, x: int, y: int, clicks: int) -> None:
        super().__init__()
        self.absolute = absolute
        self.x, self.y, self.clicks = x, y, clicks

    def add(self, x: int, y: int, clicks: int) -> None:
        self.x, self.y = (x, y) if self.absolute else (self.x + x, self.y + y)
        self.clicks += clicks

    def first(self) -> bytes:
        pack = packets.pack_position if self.absolute else packets.pack_motion
        return pack(self.x, self.y, self.clicks)


class _Touches(_Entry):
    def __init__(self, touches: list[Touch]) -> None:
        super().__init__()
        self.moves = all(event == packets.MT_EV_MOTION for event, _contact, _x, _y in touches)
        self._touches = deque([*touches, (packets.MT_EV_SYN, 0, 0, 0)])

    def add(self, touches: list[Touch]) -> None:
        """Both only move."""
        moved = {touch[1]: touch for touch in (*self._touches, *touches) if touch[0] == packets.MT_EV_MOTION}
        self._touches = deque([*moved.values(), (packets.MT_EV_SYN, 0, 0, 0)])

    def first(self) -> bytes:
        return packets.pack_touch(*self._touches[0])

    def advance(self) -> bool:
        self._touches.popleft()
        return not self._touches


class Outbox:
    """Writes to ``page``. Each call returns whether the event was taken; flush() comes after them."""

    def __init__(self, page: InputPage, releases: Iterable[int], held: Callable[[int], bool]) -> None:
        """``releases``: keys to be released as soon as nothing else waits, unless ``held`` then."""
        self._page = page
        self._releases = iter(releases)
        self._held = held
        self._waiting: deque[_Entry] = deque()
        self.sent = self.coalesced = self.dropped = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    # -- what happens

    def press(self, code: int) -> bool:
        return self._add_unless_full(_Key(code, True))

    def release(self, code: int) -> None:
        """Of what press() took."""
        self._waiting.append(_Key(code, False))

    def move(self, absolute: bool, x: int, y: int, clicks: int) -> bool:
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, _Motion) and last.absolute == absolute:
            last.add(x, y, clicks)
            self.coalesced += 1
            return True
        return self._add_unless_full(_Motion(absolute, x, y, clicks))

    def touch(self, touches: list[Touch]) -> bool:
        """One frame. A DOWN comes only after may_press(), and an UP only after a DOWN: both are taken."""
        entry = _Touches(touches)
        last = self._waiting[-1] if self._waiting else None
        if entry.moves and isinstance(last, _Touches) and last.moves and not last.begun:
            last.add(touches)
            self.coalesced += 1
            return True
        if entry.moves:
            return self._add_unless_full(entry)
        self._waiting.append(entry)
        return True

    def may_press(self) -> bool:
        """Whether a DOWN may be in the next frame; counts as dropped if not."""
        if len(self._waiting) < MOST_WAITING:
            return True
        self.dropped += 1
        return False

    def _add_unless_full(self, entry: _Entry) -> bool:
        if not self.may_press():
            return False
        self._waiting.append(entry)
        return True

    # -- the page

    def flush(self) -> bool:
        """Write what there is room for; whether the frontend is to be notified.

        An index that can't be true is like no room: what waits is bounded.
        """
        before = self.sent
        try:
            for _ in range(self._page.room()):
                if not self._write_next():
                    break
        except RingError:
            pass  # the index has changed under our hands
        if self.sent == before:
            return False
        self._page.publish()
        return True

    def _write_next(self) -> bool:
        if self._waiting:
            entry = self._waiting[0]
            self._page.write(entry.first())
            entry.begun = True
            if entry.advance():
                self._waiting.popleft()
            self.sent += 1
            return True
        code = next((code for code in self._releases if not self._held(code)), 0)
        if code:
            self._page.write(packets.pack_key(code, False))
            self.sent += 1
        return bool(code)
