# SPDX-License-Identifier: MIT
"""The phases in which a DomU can end, and the ways in which it does.

A phase is reached for sure, not by timing: where a request must be open, the worker that would
answer it is stopped first (SIGSTOP), and goes on after the end.
"""

from .dom0 import poll


def _before_connect(domu):
    domu.create(paused=True)
    poll(domu.backend, 60, f"{domu.name} in the backend's status")


def _worker_stopped(domu):
    pid = domu.backend()["pid"]
    domu.dom0.run(f"kill -STOP {pid}")
    domu.stopped = pid


def _during_create(domu):
    domu.create(options=None)
    domu.wait_for_shell()
    poll(lambda: (domu.backend() or {}).get("devices"), 60, "the device in the backend's status")
    poll(lambda: domu.try_run("ls /dev/dri/card*")[0] == 0, 60, "the frontend's card")
    _worker_stopped(domu)
    domu.resume_pattern()
    domu.run("until pgrep -x xen-dmabuf-patt; do :; done")


def _flipping(domu):
    domu.start()
    first = domu.flips()
    domu.screens("run")
    poll(lambda: domu.flips() > first + 2, 60, f"{domu.name} flipping")


def _idle(domu):
    domu.start()
    domu.screens("flip 2", 60)


def _during_destroy(domu):
    domu.start()
    _worker_stopped(domu)
    domu.stop_pattern()


PHASES = {
    "before connect": _before_connect,
    "during DBUF_CREATE": _during_create,
    "while flipping": _flipping,
    "shown and idle": _idle,
    "during DBUF_DESTROY": _during_destroy,
}


def _go_on(domu):
    if domu.stopped:
        domu.dom0.run(f"kill -CONT {domu.stopped}")


def _destroy(domu):
    if not domu.stopped:
        domu.dom0.run(f"xl destroy {domu.domid}", 60)
        return
    # the toolstack gives a backend 10 s: its worker goes on as soon as it has been asked
    node = f"/local/domain/0/backend/vdispl/{domu.domid}/0/state"
    domu.dom0.run(f"xl destroy {domu.domid} & while [ \"$(xenstore-read {node})\" = 4 ]; do :; done; "
                  f"kill -CONT {domu.stopped}; wait $!", 60)


def _destroy_stuck(domu):
    """The worker goes on only when the domain is dead: until then it is a zombie."""
    domu.dom0.run(f"xl destroy {domu.domid}", 60)
    _go_on(domu)


def _panic(domu):
    # the answer never comes: the command is put into the background
    domu.try_run("(sleep 0.2; echo c > /proc/sysrq-trigger) & true")
    _go_on(domu)


def _shutdown(domu):
    # the kernel asks an init that is no init: it has to be told what powers off
    domu.run("echo '/sbin/poweroff -f -f' > /proc/sys/kernel/poweroff_cmd")
    domu.dom0.run(f"xl shutdown {domu.domid}")
    _go_on(domu)


WAYS = {"destroy": _destroy, "destroy, its worker stuck": _destroy_stuck, "panic": _panic, "shutdown": _shutdown}
