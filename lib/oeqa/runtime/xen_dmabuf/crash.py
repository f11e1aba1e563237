# SPDX-License-Identifier: MIT
"""The phases in which a DomU can end, and the ways in which it does.

A phase is reached for sure, not by timing: where a request must be open, the worker that would
answer it is stopped first (SIGSTOP), and goes on after the end.
"""

from __future__ import annotations

from .dom0 import RELEASE_SECONDS, TOOLS, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .domu import DomU


def _worker_stopped(domu: DomU) -> None:
    domu.stopped = domu.worker()
    domu.dom0.run(f"kill -STOP {domu.stopped}")


def hold_create(domu: DomU) -> None:
    """Let a pattern program that was stopped ask for its display buffers; its worker can't answer."""
    _worker_stopped(domu)
    domu.resume_pattern()
    domu.run("until pgrep -x xen-dmabuf-patt; do :; done")


def hold_destroy(domu: DomU) -> None:
    """Let a running pattern program give its display buffers back; its worker can't answer."""
    _worker_stopped(domu)
    domu.stop_pattern()


def _before_connect(domu: DomU) -> None:
    poll(domu.known, 60, f"{domu.name} in the backend's status")


def _during_create(domu: DomU) -> None:
    domu.wait_for_shell()
    poll(lambda: (domu.known() or {}).get("devices"), 60, "the device in the backend's status")
    poll(lambda: domu.try_run("ls /dev/dri/card*")[0] == 0, 60, "the frontend's card")
    hold_create(domu)


def _flipping(domu: DomU) -> None:
    domu.wait_for_start()
    (screen,) = domu.screens("run")
    # by its own account: the backend may have to wait for another domain's stopped worker
    poll(lambda: domu.screens()[0]["flips"] > screen["flips"] + 2, 60, f"{domu.name} flipping")


def _idle(domu: DomU) -> None:
    domu.wait_for_start()
    domu.screens("flip 2", 60)


def _during_destroy(domu: DomU) -> None:
    domu.wait_for_start()
    hold_destroy(domu)


# How the DomU is created, and how it comes so far.
_PHASES: dict[str, tuple[dict[str, Any], Callable[[DomU], None]]] = {
    "before connect": ({"paused": True}, _before_connect),
    "during DBUF_CREATE": ({"options": None}, _during_create),
    "while flipping": ({}, _flipping),
    "shown and idle": ({}, _idle),
    "during DBUF_DESTROY": ({}, _during_destroy),
}
PHASES = tuple(_PHASES)


def reach(*wanted: tuple[DomU, str]) -> None:
    """Bring DomUs into phases: pairs of both. They start at the same time."""
    for domu, phase in wanted:
        creation, _ = _PHASES[phase]
        domu.create(**creation)
    # one that flips takes the processors from those that are to start
    for domu, phase in sorted(wanted, key=lambda pair: pair[1] == "while flipping"):
        _, come = _PHASES[phase]
        come(domu)


def _go_on(domu: DomU) -> str:
    # the supervisor may have ended a worker that keeps silent
    return f"{{ kill -CONT {domu.stopped} 2> /dev/null || true; }}" if domu.stopped else "true"


def _destroy(domu: DomU) -> str:
    if not domu.stopped:
        return f"xl destroy {domu.domid}"
    # the toolstack gives a backend 10 s: its worker goes on as soon as it has been asked
    node = f"{domu.dom0.backend_node('vdispl', domu.domid)}/state"
    return f'xl destroy {domu.domid} & while [ "$(xenstore-read {node})" = 4 ]; do :; done; {_go_on(domu)}; wait $!'


def _destroy_stuck(domu: DomU) -> str:
    """The worker goes on only when the domain is dead: until then it is a zombie."""
    return f"xl destroy {domu.domid} && {_go_on(domu)}"


def _destroy_silent(domu: DomU) -> str:
    """Nobody lets the worker go on: the supervisor ends it."""
    _worker_stopped(domu)
    return f"xl destroy {domu.domid}"


def _panic(domu: DomU) -> str:
    # the answer never comes: the command is put into the background
    domu.try_run("(sleep 0.2; echo c > /proc/sysrq-trigger) & true")
    return _go_on(domu)


def _shutdown(domu: DomU) -> str:
    # the kernel asks an init that is no init: it has to be told what powers off
    domu.run("echo '/sbin/poweroff -f -f' > /proc/sys/kernel/poweroff_cmd")
    return f"xl shutdown {domu.domid} && {_go_on(domu)}"


# Each does in the DomU what must be done there and returns Dom0's part, a shell command.
STUCK = "destroy, its worker stuck"
SILENT = "destroy, its worker silent for good"
WAYS = {"destroy": _destroy, STUCK: _destroy_stuck, SILENT: _destroy_silent, "panic": _panic, "shutdown": _shutdown}


def begin_end(domu: DomU, way: str) -> None:
    """Start to end a DomU; wait_for_release() must follow."""
    log = f"{TOOLS}/end-{domu.domid}"
    domu.dom0.run(
        f'{{ {{ {WAYS[way](domu)}; echo "status $?"; }} > {log}.unfinished 2>&1; '
        f"mv {log}.unfinished {log}; }} < /dev/null > /dev/null 2>&1 &"
    )


def wait_for_release(*domus: DomU) -> float:
    """Wait until what begin_end() has started is complete and the domains are gone.

    Returns the longest time between both, in seconds; AssertionError if an end failed or its domain stays.
    """
    status, output = domus[0].dom0.ask(
        "released", RELEASE_SECONDS, *[domu.domid for domu in domus], timeout=RELEASE_SECONDS + 120
    )
    if status:
        raise AssertionError(f"Dom0, {', '.join(domu.name for domu in domus)}: {output}")
    for domu in domus:
        domu.gone = True
    return float(output)
