# SPDX-License-Identifier: MIT
"""What the product claims, each as a function that raises ProofError or returns what it saw.

The demo and the tests call the same functions.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import pattern
from .deadline import wait_until
from .display import PAGE, PROBE, DomU, animate, mapped_grants, save, screenshot
from .errors import ProofError
from .guest import Dom0, Json
from .qemu import Qemu

RELEASE_SECONDS = 30
COLOURS_OF_A_CLIENT = 100  # more than background, panel and cursor have
MOSTLY_TERMINAL = 0.2  # of the screen is black where a terminal fills the DomU's window
KEYS_AT_ONCE = 8
POINTER = 16  # pixels each way that are seen of it where the demo leaves it
POKED = 0x5A17C3
POKED_BACK = 0xC3175A


@dataclass
class Scene:
    """What a proof works on. ``pictures`` collects for the report what it shows side by side: (caption, file name)
    pairs."""

    machine: Qemu
    dom0: Dom0
    domu: DomU
    folder: Path
    pictures: list[list[tuple[str, str]]] = field(default_factory=list)

    def shot(self, name: str) -> np.ndarray:
        """Screenshot of Dom0's screen, ``name``.png, which replaces an earlier one."""
        return screenshot(self.machine, self.folder / f"{name}.png")

    def keep(self, name: str, pixels: np.ndarray) -> None:
        """Save a picture as ``name``.png."""
        save(pixels, self.folder / f"{name}.png")

    def show(self, *pictures: tuple[str, str]) -> None:
        """Have the report show (caption, file name) pairs side by side."""
        self.pictures.append(list(pictures))


def shown_exactly(scene: Scene, name: str, screen: Json) -> pattern.Sighting:
    """The screen shows the DomU's frame exactly. The frame is answered when Weston has drawn it; what
    virtio-gpu scans out may be one refresh behind, so a held frame gets a moment to arrive."""
    last: list[ProofError] = []

    def settled() -> pattern.Sighting | None:
        try:
            return pattern.require_exact(
                screenshot(scene.machine, scene.folder / f"{name}.png"),
                screen["width"],
                screen["height"],
                screen["stream"],
                screen["frame"],
            )
        except ProofError as error:
            last[:] = [error]
            return None

    try:
        return wait_until(settled, 20, "the DomU's frame on Dom0's screen")
    except TimeoutError as error:
        raise ProofError(f"{last[0]} (for 20 s)") from error


def pattern_is_exact(scene: Scene, rounds: int = 3, flips: int = 5, title: str = "pattern") -> str:
    """(a) The window on Dom0's screen equals the DomU's frame, pixel by pixel, for several frames.

    ``title`` begins the names of the pictures.
    """
    scene.domu.screens("hold")
    seen = []
    for turn in range(rounds):
        screens = scene.domu.screens(f"flip {flips}", timeout=120)
        for screen in screens:
            if screen["error"]:
                raise ProofError(f"stream {screen['stream']}: page flip refused, errno {screen['error']}")
            name = f"{title}-{screen['stream']}-{turn}"
            found = shown_exactly(scene, name, screen)
            seen.append(screen["frame"])
            if turn == rounds - 1:
                drawn = pattern.frame(screen["width"], screen["height"], screen["stream"], screen["frame"])
                scene.keep(f"{name}-drawn", drawn)
                scene.show(
                    (f"What the DomU drew: frame {screen['frame']}", f"{name}-drawn.png"),
                    ("Dom0's screen", f"{name}.png"),
                )
    return (
        f"frames {', '.join(map(str, seen))}: all {screen['width']}x{screen['height']} pixels equal, "
        f"window at {found.x},{found.y}"
    )


def memory_is_shared(scene: Scene) -> str:
    """(b) A pixel written in the DomU is seen through Dom0's dma-buf without any message, and back."""
    scene.domu.screens("hold")
    screen = scene.domu.screens()[0]
    x, y = screen["width"] // 2, screen["height"] // 2
    offset = y * screen["pitch"] + x * 4
    status = scene.domu.backend_status()
    before = [c["flips_requested"] for d in status["devices"] for c in d["connectors"]]
    old = int(scene.domu.send(f"peek 0 {x} {y}")["rgb"], 16)
    scene.domu.send(f"poke 0 {x} {y} {POKED:06x}")
    files = [str(b["fd"]) for d in status["devices"] for b in d["buffers"] if b["strategy"] == "map"]
    values = scene.dom0.run(f"python3 {PROBE} peek {status['pid']} {','.join(files)} {offset}").split()
    holders = [file for file, value in zip(files, values, strict=True) if int(value, 16) & 0xFFFFFF == POKED]
    if len(holders) != 1:
        raise ProofError(f"the poked pixel {POKED:06x} is in {len(holders)} of {len(files)} dma-bufs in Dom0, not in 1")
    scene.dom0.run(f"python3 {PROBE} poke {status['pid']} {holders[0]} {offset} {0xFF000000 | POKED_BACK:x}")
    back = int(scene.domu.send(f"peek 0 {x} {y}")["rgb"], 16)
    scene.domu.send(f"poke 0 {x} {y} {old:06x}")
    if back != POKED_BACK:
        raise ProofError(f"Dom0 wrote {POKED_BACK:06x} into the dma-buf, the DomU reads {back:06x}")
    after = [c["flips_requested"] for d in scene.domu.backend_status()["devices"] for c in d["connectors"]]
    if before != after:
        raise ProofError(f"page flips were requested meanwhile ({before} -> {after}): this proves nothing")
    return (
        f"pixel {x},{y}: {POKED:06x} written in the DomU was read in Dom0 through file {holders[0]} of "
        f"worker {status['pid']}, {POKED_BACK:06x} written there was read in the DomU; no flip in between"
    )


def nothing_is_copied(scene: Scene, flips: int = 10) -> str:
    """(c) The backend reads and writes no pixel: its own counter, and the kernel's view of its process."""
    pid = scene.domu.backend_status()["pid"]
    before = json.loads(scene.dom0.run(f"python3 {PROBE} footprint {pid}"))
    screen = scene.domu.screens(f"flip {flips}", timeout=180)[0]
    after = json.loads(scene.dom0.run(f"python3 {PROBE} footprint {pid}"))
    copied = scene.domu.backend_status()["pixel_bytes_copied"]
    frame_bytes = screen["pitch"] * screen["height"]
    moved = after["read"] - before["read"] + after["written"] - before["written"]
    if copied:
        raise ProofError(f"the backend's counter says {copied} bytes of pixels copied")
    if after["mapped"]["dmabuf"] or after["mapped"]["drm"] or after["mapped"]["gntdev"] > 64 * PAGE:
        raise ProofError(f"worker {pid} has pixel memory mapped: {after['mapped']}")
    if moved >= flips * frame_bytes // 100:
        raise ProofError(f"worker {pid} moved {moved} bytes by system calls in {flips} flips of {frame_bytes}")
    return (
        f"{flips} flips of {frame_bytes} bytes: backend's counter 0; worker {pid} has no dma-buf mapped, "
        f"{after['mapped']['gntdev']} bytes of rings, moved {moved} bytes by system calls"
    )


def grants_equal_pages(scene: Scene) -> str:
    """(e) In Xen's grant table Dom0 holds exactly the buffers' pages while shown, and none after release.

    The pattern program is stopped then.
    """
    scene.domu.screens("hold")
    screens = scene.domu.screens()
    pages = sum(-(-s["pitch"] * s["height"] // PAGE) * s["buffers"] for s in screens)
    shown = mapped_grants(scene.dom0, scene.domu.domid)
    scene.domu.stop_pattern()
    wait_until(lambda: not scene.domu.buffers(), RELEASE_SECONDS, "the release of all display buffers")
    rest = mapped_grants(scene.dom0, scene.domu.domid)
    if shown - rest != pages:
        raise ProofError(
            f"Xen: {shown} grants mapped while shown, {rest} after release; the buffers have {pages} pages"
        )
    return f"{pages} pages in buffers; grants that Dom0 has mapped: {shown} while shown, {rest} (rings) after release"


def wait_until_gone(scene: Scene, domid: int) -> None:
    """Wait until neither Xen (no zombie) nor the backend has a destroyed domain any more."""
    scene.domu.forget()

    def gone() -> bool:
        return all(d["domid"] != domid for d in scene.dom0.domains()) and all(
            d["domid"] != domid for d in scene.dom0.status()["domains"]
        )

    wait_until(gone, RELEASE_SECONDS, f"domain {domid} and its state in the backend to vanish")


def crash_is_survived(scene: Scene) -> str:
    """A DomU that flips is destroyed: no zombie, no grant, no buffer, no window is left."""
    restarts = scene.dom0.run("systemctl show -P NRestarts xen-dmabuf-backend weston")
    domid = scene.domu.domid
    _wait_for_flips(scene.domu)
    scene.dom0.run(f"xl destroy {domid}", timeout=60)
    wait_until_gone(scene, domid)
    left = mapped_grants(scene.dom0, domid)
    if left:
        raise ProofError(f"{left} grants of the dead domain {domid} are still mapped")
    now = scene.dom0.run("systemctl show -P NRestarts xen-dmabuf-backend weston")
    if now != restarts:
        raise ProofError(f"backend or Weston was restarted: {restarts.split()} -> {now.split()}")
    wait_until(lambda: not has_window(scene, "after-crash"), RELEASE_SECONDS, "the dead DomU's window to vanish")
    scene.show(("Dom0's screen after xl destroy", "after-crash.png"))
    return f"domain {domid} destroyed while flipping: no zombie, 0 grants left, window gone, Weston and backend live"


def _wait_for_flips(domu: DomU) -> None:
    def shown() -> int:
        return sum(c["flips_shown"] for device in domu.backend_status()["devices"] for c in device["connectors"])

    first = shown()
    wait_until(lambda: shown() > first + 2, 60, f"{domu.name} flipping")


def has_window(scene: Scene, name: str) -> bool:
    """Whether the screen shows anything but one colour, and a pointer in its last corner."""
    pixels = screenshot(scene.machine, scene.folder / f"{name}.png").copy()
    pixels[-POINTER:, -POINTER:] = pixels[0, 0]
    return bool((pixels != pixels[0, 0]).any())


def weston_is_exact(scene: Scene) -> str:
    """The DomU's own Weston: it moves, and, held still, Dom0's window equals its framebuffer."""

    def drawn_something() -> bool:
        pixels = screenshot(scene.machine, scene.folder / "weston-moving-1.png")
        some = pixels[::4, ::4].reshape(-1, 3)  # sorting all of them takes longer than a frame does
        return len(np.unique(some, axis=0)) > COLOURS_OF_A_CLIENT

    wait_until(drawn_something, 60, "a client of the DomU's Weston on the screen")
    first = scene.shot("weston-moving-1")

    def moved() -> bool:
        return bool((screenshot(scene.machine, scene.folder / "weston-moving-2.png") != first).any())

    wait_until(moved, 60, "the DomU's moving client")
    scene.show(
        ("DomU's Weston on Dom0's screen", "weston-moving-1.png"), ("The same a moment later", "weston-moving-2.png")
    )
    scene.domu.run("pkill -STOP -x weston-simple-s")
    drawn: list[np.ndarray] = []

    def equal() -> tuple[int, int] | None:
        drawn[:] = [scene.domu.grab()]
        return find(screenshot(scene.machine, scene.folder / "weston-still.png"), drawn[0])

    try:
        x, y = wait_until(equal, 60, "Dom0's window to equal the framebuffer of the DomU's Weston")
    finally:
        scene.domu.run("pkill -CONT -x weston-simple-s")
    scene.keep("weston-drawn", drawn[0])
    scene.show(
        ("Held still: the framebuffer, read in the DomU", "weston-drawn.png"), ("Dom0's screen", "weston-still.png")
    )
    height, width = drawn[0].shape[:2]
    return f"it moves; held still, all {width}x{height} pixels equal, window at {x},{y}"


def typed_text_arrives(scene: Scene) -> str:
    """A person clicks into the DomU's window and types: its terminal shows it, and its shell does it."""
    width, height = scene.machine.screen
    scene.domu.start_terminal()

    def there() -> bool:
        return bool((scene.shot("before-typing")[::8, ::8] == 0).all(axis=2).mean() > MOSTLY_TERMINAL)

    wait_until(there, 60, "the terminal in the DomU's window")
    # one after the other: Weston reads keyboard and tablet as it likes
    sent = _events_sent(scene)
    scene.machine.point(width // 2, height // 3)
    sent = _wait_for_events(scene, sent + 1, "the pointer")
    scene.machine.click()
    sent = _wait_for_events(scene, sent + 2, "the button")
    typed = "touch /tmp/typed-by-hand"
    frames = type_slowly(scene, typed + "\n", sent)
    wait_until(lambda: scene.domu.try_run("test -e /tmp/typed-by-hand").status == 0, 60, "what the typed line does")
    frames.append(scene.shot("after-typing"))
    animate(frames, scene.folder / "typing.webp")
    scene.show(
        ("The DomU's terminal before anybody types", "before-typing.png"),
        (f"After a click into the window and typing: {typed}", "after-typing.png"),
        ("The same, moving", "typing.webp"),
    )
    owner = scene.domu.run("stat -c %U /tmp/typed-by-hand").strip()
    scene.domu.run("systemctl stop terminal")
    scene.machine.point(width - 1, height - 1)  # out of the way of the pictures that follow
    return f"{typed!r}, typed on Dom0's keyboard, was run in the DomU by {owner}"


def type_slowly(scene: Scene, text: str, sent: int) -> list[np.ndarray]:
    """Type as fast as an emulated Dom0 can read it: its kernel keeps some 60 events for Weston. What the
    screen showed meanwhile. ``sent``: events that the DomU has got before."""
    frames = []
    for start in range(0, len(text), KEYS_AT_ONCE):
        keys = text[start : start + KEYS_AT_ONCE]
        scene.machine.type(keys)
        sent = _wait_for_events(scene, sent + 2 * len(keys), f"the keys of {keys!r}")
        frames.append(scene.shot("typing"))
    return frames


def _wait_for_events(scene: Scene, least: int, what: str) -> int:
    """How many it has got then."""

    def sent() -> int:
        now = _events_sent(scene)
        return now if now >= least else 0

    return wait_until(sent, 60, f"{what} in the DomU")


def _events_sent(scene: Scene) -> int:
    return sum(int(device["events_sent"]) for device in scene.domu.backend_status()["inputs"])


def find(screen: np.ndarray, picture: np.ndarray) -> tuple[int, int] | None:
    """Where a picture is on a screen that is otherwise one colour; None if it is nowhere exactly."""
    height, width = picture.shape[:2]
    others = np.argwhere((screen != screen[0, 0]).any(axis=2))
    if not len(others):
        return None
    y, x = others.min(axis=0)
    shown = screen[y : y + height, x : x + width]
    return (int(x), int(y)) if shown.shape == picture.shape and (shown == picture).all() else None


@contextlib.contextmanager
def strategies(scene: Scene, names: str) -> Iterator[None]:
    """Give the DomU a worker with other strategies, and one with the shipped ones afterwards; the DomU stays."""
    configuration = "/etc/xen-dmabuf/backend.toml"

    def changed(command: str) -> None:
        unit = f"xen-dmabuf-worker@{scene.domu.backend_status()['domid']}.service"
        # stopped, not restarted: one that goes on keeps what it was started with
        scene.dom0.run(f"{command} && systemctl reload xen-dmabuf-backend && systemctl stop {unit}", timeout=60)

    changed(
        f"cp {configuration} /run/backend.toml.kept && "
        f"sed -i 's/^#strategies = .*/strategies = {names}/' {configuration}"
    )
    try:
        yield
    finally:
        changed(f"mv /run/backend.toml.kept {configuration}")


def flips_again(domu: DomU) -> None:
    """Wait until the pattern program flips on another worker; it is held then.

    Flips alone prove nothing: drm_xen_front completes them itself while its device is unplugged.
    """

    def reconnected() -> bool:
        with contextlib.suppress(ProofError):
            return bool(domu.buffers())
        return False

    domu.try_run("xen-dmabuf-pattern send run")  # held, it would not notice that its device is gone
    wait_until(reconnected, 90, f"{domu.name} on another worker")
    domu.resume_pattern()
    domu.screens("hold")


def _without_map(scene: Scene, caption: str) -> Json:
    """The domain's status while it shows a picture without our ioctls: by gntdev's own dma-buf, or copied."""
    with strategies(scene, '["export", "copy"]'):
        flips_again(scene.domu)
        screen = scene.domu.screens("flip 3", timeout=120)[0]
        shown_exactly(scene, "without-map", screen)
        scene.show((f"Without MAP_REFS_TO_BUF: {caption}", "without-map.png"))
        return {"mapped": scene.dom0.mapped_dmabufs("weston"), **scene.domu.backend_status()}


def foreign_buffer_is_mapped(scene: Scene) -> str:
    """(d) with Mesa from 26 on: its CPU renderer reads whatever dma-buf there is, which shows nothing of a device."""
    status = _without_map(scene, "gntdev's own buffer, read by a CPU")
    ways = {buffer["strategy"] for device in status["devices"] for buffer in device["buffers"]}
    if ways != {"export"} or not status["mapped"]:
        raise ProofError(f"the buffers' strategy is {ways}, and Weston has {status['mapped']} dma-bufs mapped")
    return f"Weston's renderer has mapped {status['mapped']} of them; a device's refusal is not shown here"


def foreign_buffer_is_refused(scene: Scene) -> str:
    """(d) Without our ioctls: gntdev's own dma-buf (EXP_FROM_REFS) is refused, as on i.MX8; the copy shows it."""
    status = _without_map(scene, "the copying fallback")
    buffers = [buffer for device in status["devices"] for buffer in device["buffers"]]
    for buffer in buffers:
        if buffer["strategy"] != "copy" or "export" not in buffer["why"]:
            raise ProofError(f"EXP_FROM_REFS was not refused: {buffer}")
    if not buffers or not status["pixel_bytes_copied"]:
        raise ProofError("the copying fallback says that it copied nothing")
    return f"{buffers[0]['why']}; the fallback copied {status['pixel_bytes_copied']} bytes"


def picture_comes_back(scene: Scene) -> str:
    """On a worker with the shipped configuration the same DomU is zero-copy again."""
    flips_again(scene.domu)
    seen = pattern_is_exact(scene, rounds=1, title="reconnected")
    ways = {buffer["strategy"] for buffer in scene.domu.buffers()}
    if ways != {"map"}:
        raise ProofError(f"the buffers' strategy is {ways}, not map")
    return f"{seen}; the DomU was not restarted"
