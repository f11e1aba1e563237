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
_FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "files")
_AGENT, _PROBE = "xen_dmabuf_agent.py", "xen_dmabuf_probe.py"
_END_AGENT = "[ ! -e agent.pid ] || kill $(cat agent.pid)"
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
        pause = min(pause * 1.5, 0.5)


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

    def ask(self, *words, timeout=60):
        """(status, output) of a request to files/xen_dmabuf_agent.py; AssertionError if that gives no answer."""
        # $$ is the shell's number, known to it alone; a shell's own words start no process
        request = shlex.quote(json.dumps(words)[1:])
        command = (f"cd {TOOLS} && read -r agent < agent.pid && kill -0 $agent && mkfifo $$ && "
                   f"printf '[\"%s\", %s\\n' $$ {request} > requests && "
                   "read -r answer < $$ && printf '%s\\n' \"$answer\"")
        status, output = self.try_run(command, timeout)
        if status:
            raise AssertionError(f"Dom0: no answer from {_AGENT} to {words}, {status}: {output}\n{self._agent_log()}")
        return tuple(json.loads(output))

    # -- preparation

    def prepare(self):
        """Install the programs that the cases need, and let Weston give screenshots to every client."""
        self.run(f"mkdir -p {TOOLS}")
        for name in (_AGENT, _PROBE):
            self.target.copyTo(os.path.join(_FILES, name), f"{TOOLS}/{name}")
        self._start_agent()
        arguments = self.run("systemctl show -P ExecStart weston.service")
        command = re.search(r"argv\[\]=(.*?) ;", arguments)[1]
        if "--debug" not in command:
            text = f"[Service]\nExecStart=\nExecStart={command} --debug\n"
            self.run(f"mkdir -p {os.path.dirname(_DROP_IN)}; printf %s {shlex.quote(text)} > {_DROP_IN}; "
                     "systemctl daemon-reload")
        if "--debug" not in self.weston_command():
            self.run("systemctl restart weston", 120)
            self.wait_for_services()

    def _start_agent(self):
        """One process answers ask(); one that an interrupted run has left is ended."""
        self.run(f"cd {TOOLS}; {_END_AGENT}; rm -f requests; "
                 f"setsid python3 -I {_AGENT} {TOOLS} < /dev/null > agent.log 2>&1 & echo $! > {TOOLS}/agent.pid")
        poll(lambda: self.try_run(f"test -p {TOOLS}/requests")[0] == 0 or self._agent_log(), 60, f"{_AGENT} in Dom0")
        if self._agent_log():
            raise AssertionError(f"Dom0: {_AGENT} has ended:\n{self._agent_log()}")

    def _agent_log(self):
        return self.run(f"cat {TOOLS}/agent.log")

    def clean_up(self):
        """Remove what prepare() installed; the running Weston keeps its argument until it is restarted."""
        self.run(f"cd {TOOLS} && {_END_AGENT}; rm -rf {TOOLS} {_DROP_IN}; systemctl daemon-reload")

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
        """Domain ids of all domains but Dom0, zombies included (`xl list` prints nothing while one vanishes).

        Without -l, which can wait for seconds for a domain that is being destroyed.
        """
        text = poll(lambda: self.run("xl list 2>/dev/null || true").strip(), 30, "xl list")
        # name, id, memory, processors, state, time
        found = [int(line.split()[-5]) for line in text.splitlines()[1:]]
        return [domid for domid in found if domid]

    def status(self):
        """The backend's state."""
        status, output = self.ask("status")
        if status:
            raise AssertionError(f"Dom0: the backend's state: {output}")
        return json.loads(output)

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
        return self.run(f"python3 {TOOLS}/{_PROBE} {' '.join(map(str, words))}")
