# SPDX-License-Identifier: MIT
"""`python3 -m xen_dmabuf.worker DOMID`: first aid, then the worker. See main.py and firstaid.py.

"idle" in the place of a domain's number: idle.py.
"""

import os
import sys
import time

if len(sys.argv) != 2 or not (sys.argv[1].isdecimal() or sys.argv[1] == "idle"):
    sys.exit("usage: python3 -m xen_dmabuf.worker DOMID|idle (started by systemd only)")
domid = -1 if sys.argv[1] == "idle" else int(sys.argv[1])

from .received import received  # noqa: E402 (in the order in which a DomU waits for them)

files = received()
answered, answered_at = 0, 0.0
if domid >= 0 and "state" in files and "evtchn" in files:
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

if domid < 0:
    from .idle import main as idle

    status = idle(files)
else:
    from .main import main

    status = main(domid, files, answered, answered_at)
try:  # noqa: SIM105
    sys.stderr.flush()
except OSError:
    pass
os._exit(status)  # a thread that waits in a library must not keep the unit from its restart
