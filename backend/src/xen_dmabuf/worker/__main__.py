# SPDX-License-Identifier: MIT
"""`python3 -m xen_dmabuf.worker DOMID`: first aid, then the worker. See main.py and firstaid.py."""

import os
import sys
import time

if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
    sys.exit("usage: python3 -m xen_dmabuf.worker DOMID (started by systemd only)")
domid = int(sys.argv[1])

from .received import received  # noqa: E402 (in the order in which a DomU waits for them)

files = received()
answered, answered_at = 0, 0.0
if "state" in files and "evtchn" in files:
    from .firstaid import answer_flips

    try:
        answered = answer_flips(domid, files["state"], files["evtchn"])
    except Exception as error:  # whatever is wrong with the state, the worker is what says it
        try:  # noqa: SIM105 (contextlib is for later)
            print(f"<3>first aid: {error!r}", file=sys.stderr)
        except OSError:
            pass  # nobody listens
    answered_at = time.monotonic()

# asyncio does without it, and importing it takes a tenth of the start
sys.modules["ssl"] = None  # type: ignore[assignment]

from .main import main  # noqa: E402

status = main(domid, files, answered, answered_at)
try:  # noqa: SIM105
    sys.stderr.flush()
except OSError:
    pass
os._exit(status)  # a thread that waits in a library must not keep the unit from its restart
