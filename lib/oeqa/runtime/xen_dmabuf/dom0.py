# SPDX-License-Identifier: MIT
"""Dom0 as the cases see it: only by commands over the target's SSH."""

import json
import os
import re
import shlex
import tempfile
import time

from . import picture

TOOLS = "/tmp/xen-dmabuf-test"
PAGE = 4096
# with the socket named it need not read its configuration, which takes a third of its time
STATUS = "xen-dmabuf-backend status --json --socket /run/xen-dmabuf/control.sock"
_FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "files")
_PROGRAMS = ("xen_dmabuf_console.py", "xen_dmabuf_probe.py")
_DROP_IN = "/run/systemd/system/weston.service.d/zz-xen-dmabuf-test.conf"
_WAYLAND = "XDG_RUNTIME_DIR=/run WAYLAND_DISPLAY=wayland-0"


def poll(condition, seconds, what):
    """Ask until ``condition()`` is true and return that; AssertionError after ``seconds``, with the last answer."""
    end = time.monotonic() + seconds
    pause = 0.05
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"{what}: not within {seconds} s, last: {value!r}")
        time.sleep(min(pause, max(0, end - time.monotonic())))
        pause = min(pause * 1.5, 1.0)


class Dom0:
    """``target`` is an oeqa target. AssertionErrors carry command and output."""

    def __init__(self, target):
        self.target = target

    def try_run(self, command, timeout=60):
        """(status, output) of a shell command."""
        return self.target.run(command, timeout)

    def run(self, command, timeout=60):
        """The output of a shell command that must succeed."""
        status, output = self.try_run(command, timeout)
        if status:
            raise AssertionError(f"Dom0: `{command}` ended with {status}:\n{output}")
        return output

    # -- preparation

    def prepare(self):
        """Install the programs that the cases need, and let Weston give screenshots to every client."""
        self.run(f"mkdir -p {TOOLS}")
        for name in _PROGRAMS:
            self.target.copyTo(os.path.join(_FILES, name), f"{TOOLS}/{name}")
        arguments = self.run("systemctl show -P ExecStart weston.service")
        command = re.search(r"argv\[\]=(.*?) ;", arguments)[1]
        if "--debug" not in command:
            text = f"[Service]\nExecStart=\nExecStart={command} --debug\n"
            self.run(f"mkdir -p {os.path.dirname(_DROP_IN)}; printf %s {shlex.quote(text)} > {_DROP_IN}; "
                     "systemctl daemon-reload")
        if "--debug" not in self.weston_command():
            self.run("systemctl restart weston", 120)
            self.wait_for_services()

    def clean_up(self):
        """Remove what prepare() installed; the running Weston keeps its argument until it is restarted."""
        self.run(f"rm -rf {TOOLS} {_DROP_IN}; systemctl daemon-reload")

    def weston_command(self):
        """The running Weston's command line."""
        pid = self.main_pid("weston")
        return self.run(f"tr '\\0' ' ' < /proc/{pid}/cmdline") if pid else ""

    def main_pid(self, unit):
        """A unit's main process, 0 if it doesn't run."""
        return int(self.run(f"systemctl show -P MainPID {unit}"))

    def wait_for_services(self, seconds=120):
        """Wait until Weston and the backend run."""
        poll(lambda: self.try_run("systemctl is-active weston && systemctl is-active xen-dmabuf-backend")[0] == 0,
             seconds, "weston.service and xen-dmabuf-backend.service active")

    # -- state

    def domains(self):
        """Domain ids of all domains but Dom0, zombies included (`xl list` prints nothing while one vanishes)."""
        text = poll(lambda: self.run("xl list -l 2>/dev/null || true").strip(), 30, "xl list -l")
        return [entry["domid"] for entry in json.loads(text) if entry["domid"]]

    def status(self):
        """The backend's state."""
        return json.loads(self.run(STATUS))

    def grant_tables(self):
        """Xen's grant tables (debug key g), as lines."""
        text = self.run("xl dmesg -c > /dev/null; xl debug-keys g; xl dmesg")
        if "gnttab_usage_print_all" not in text:
            raise AssertionError(f"xl debug-keys g printed no grant tables:\n{text[-2000:]}")
        return text.splitlines()

    def grants(self, domid):
        """How many grants of a domain Dom0 has mapped, by Xen's own table."""
        count, inside = 0, False
        for line in self.grant_tables():
            head = re.search(r"grant-table for remote d(\d+)", line)
            if head:
                inside = int(head[1]) == domid
            elif inside and re.search(r"\[0x[0-9a-f]+\]\s+0\s", line):
                count += 1
        return count

    def maptrack_frames(self):
        """Pages in which Xen notes what Dom0 has mapped, 256 grants in each; they are never given back."""
        lines = self.grant_tables()
        (own,) = [i for i, line in enumerate(lines) if re.search(r"grant-table for remote d0\b", line)]
        return int(re.search(r"(\d+) maptrack frames", lines[own + 1])[1])

    def memory(self):
        """(Xen's free memory, Dom0's available memory) in MiB."""
        words = self.run("xl info | sed -n 's/^free_memory *: //p'; "
                         "sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").split()
        return int(words[0]), int(words[1]) // 1024

    def restarts(self):
        """How often systemd has restarted backend and Weston."""
        return self.run("systemctl show -P NRestarts xen-dmabuf-backend weston").split()

    def screenshot(self):
        """Dom0's screen as Weston itself gives it (weston-output-capture), by Weston's own client."""
        name = "wayland-screenshot-*.png"
        self.run(f"cd {TOOLS}; rm -f {name}; {_WAYLAND} weston-screenshooter; mv {name} screen.png")
        with tempfile.TemporaryDirectory() as folder:
            local = os.path.join(folder, "screen.png")
            self.target.copyFrom(f"{TOOLS}/screen.png", local)
            with open(local, "rb") as file:
                return picture.read_png(file.read())

    def probe(self, *words):
        """A look at a worker from outside (files/xen_dmabuf_probe.py)."""
        return self.run(f"python3 {TOOLS}/xen_dmabuf_probe.py {' '.join(map(str, words))}")
