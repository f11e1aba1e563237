# SPDX-License-Identifier: MIT
"""Dom0 as the cases see it: only by commands over the target's SSH."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import tempfile
import time

from . import picture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, Protocol, TypeVar

    T = TypeVar("T")
    Json = dict[str, Any]

    class Target(Protocol):
        """What is used of an oeqa target (oeqa.core.target)."""

        def run(self, command: str, timeout: float) -> tuple[int, str]: ...

        def copyTo(self, source: str, destination: str) -> None: ...

        def copyFrom(self, source: str, destination: str) -> None: ...

    class Watched(Target, Protocol):
        """One that sees Dom0's screen from outside: a camera, or what an emulator scans out."""

        def see_screen(self) -> picture.Picture: ...


CONFIGURATION = "/etc/xen/domu.cfg"
BACKEND_CONFIGURATION = "/etc/xen-dmabuf/backend.toml"
SERVICE = "xen-dmabuf-backend"
WORKERS = "xen-dmabuf-worker@.service"
TOOLS = "/tmp/xen-dmabuf-test"
PAGE = 4096
RELEASE_SECONDS = 60
_FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "files")
_AGENT, _PROBE = "xen_dmabuf_agent.py", "xen_dmabuf_probe.py"
# its process number, if that still is the process that has TOOLS as working directory, not a later one
_AGENT_RUNS = f"cd {TOOLS} && read -r agent < agent.pid && [ /proc/$agent/cwd -ef . ]"
_END_AGENT = f"! {{ {_AGENT_RUNS}; }} 2> /dev/null || kill $agent"
_DROP_IN = "/run/systemd/system/{unit}.d/zz-xen-dmabuf-test.conf"
_LIAR = "/run/xen_dmabuf_liar.py"  # a worker has a /tmp of its own
_MORE_CONFIGURATION = f"{BACKEND_CONFIGURATION}.d/zz-xen-dmabuf-test.toml"
# not below /tmp, which the backend's units have of their own
_IDLE_PICTURE = "/run/xen-dmabuf-test.ppm"
_DOM0_INI = "/etc/xen-dmabuf/dom0/weston/weston.ini"
_KIOSK_INI = "/etc/xen-dmabuf/kiosk/weston/weston.ini"
_KIOSK_TOML = f"{BACKEND_CONFIGURATION}.d/kiosk.toml"
# Weston, which reads it, has another account
_TEST_INI = "/run/xen-dmabuf-test.ini"
_GROUND = "0xff204060"  # not black, as a screen is whose guest shows nothing
_QEMU_SCREENS = "/sys/class/drm/card*-Virtual-*/status"
_RELOAD = "systemctl reload xen-dmabuf-backend"
_PERSISTENT_GRANTS = "/sys/module/xen_blkback/parameters/feature_persistent"
# Disks that are connected from now on keep no grants: Xen's table couldn't tell them from a picture's.
_NO_PERSISTENT_GRANTS = f"""
cd {TOOLS}
[ -e persistent ] || ! cat {_PERSISTENT_GRANTS} > persistent.new 2> /dev/null || mv persistent.new persistent
[ ! -e persistent ] || echo N > {_PERSISTENT_GRANTS}
"""
_SHUTDOWN_SECONDS = 60
_JOURNAL_SECONDS = 30
# What journalctl says before the first line, on stderr, which a target's output has, too.
_LEFT_OUT = r"\A(?:(?:Journal file|Use SYSTEMD_LOG_LEVEL=).*(?:\n|\Z))*"
# The names of archived journals have an "@".
_LEFT_OUT_IN_USE = r"Journal file \S*/[^/@]+\.journal "
# Its journal is empty afterwards, or a DomU couldn't mount it to read only.
_SET_ASIDE = f"""
domid=$(xl domid {{name}} 2> /dev/null) || exit 0
xl shutdown $domid
for _ in $(seq {_SHUTDOWN_SECONDS}); do xl domid {{name}} > /dev/null 2>&1 || break; sleep 1; done
! xl domid {{name}} > /dev/null 2>&1 || xl destroy $domid
while xenstore-exists {{disks}}/$domid; do :; done
mkdir -p {TOOLS}/disk && mount -o loop {{disk}} {TOOLS}/disk && umount {TOOLS}/disk || true
"""
_WAYLAND = "XDG_RUNTIME_DIR=/run WAYLAND_DISPLAY=wayland-0"


def poll(condition: Callable[[], T | None], seconds: float, what: str) -> T:
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


def found(pattern: str, text: str) -> re.Match[str]:
    """Where a pattern is in a text of several lines; AssertionError with both if it isn't."""
    match = re.search(pattern, text, re.M)
    if not match:
        raise AssertionError(f"no `{pattern}` in:\n{text}")
    return match


class Dom0:
    """``target`` is an oeqa target. AssertionErrors carry command and output."""

    def __init__(self, target: Target | Watched) -> None:
        self.target = target
        self._look: Callable[[], picture.Picture] | None = getattr(target, "see_screen", None)

    def try_run(self, command: str, timeout: float = 60) -> tuple[int, str]:
        """(status, output) of a shell command."""
        return self.target.run(command, timeout)

    def run(self, command: str, timeout: float = 60) -> str:
        """The output of a shell command that must succeed."""
        status, output = self.try_run(command, timeout)
        if status:
            raise AssertionError(f"Dom0: `{command}` ended with {status}:\n{output}")
        return output

    def ask(self, *words: object, timeout: float = 60) -> tuple[int, str]:
        """(status, output) of a request to files/xen_dmabuf_agent.py; AssertionError if that gives no answer."""
        # $$ is the shell's number, known to it alone; a shell's own words start no process
        request = shlex.quote(json.dumps(words)[1:])
        command = (
            f"{_AGENT_RUNS} && mkfifo $$ && printf '[\"%s\", %s\\n' $$ {request} > requests && "
            "read -r answer < $$ && printf '%s\\n' \"$answer\""
        )
        status, output = self.try_run(command, timeout)
        if status:
            raise AssertionError(f"Dom0: no answer from {_AGENT} to {words}, {status}: {output}\n{self._agent_log()}")
        status, output = json.loads(output)
        return status, output

    @functools.cached_property
    def disk(self) -> str:
        """xl's ``disk`` of the layer's domu.cfg, to read only: several domains may have it then."""
        return "['" + found(r"^disk *= *\['([^',]+,xvda),", self._guest)[1] + ",r']"

    @property
    def disk_file(self) -> str:
        """The file or device that this is."""
        return found(r"^\['(?:\w+:)?([^',]+),", self.disk)[1]

    @functools.cached_property
    def guest_name(self) -> str:
        """The guest of the layer's domu.cfg, which an image starts at boot."""
        return found(r'^name *= *"([^"]+)"', self._guest)[1]

    @functools.cached_property
    def _guest(self) -> str:
        return self.run(f"cat {CONFIGURATION}")

    # -- preparation

    def prepare(self) -> None:
        """Install the programs that the cases need, and let Weston give screenshots to every client.

        The guest of domu.cfg is shut down, and stays so: it writes to the disk that the cases' DomUs read.
        """
        set_aside = _SET_ASIDE.format(name=self.guest_name, disk=self.disk_file, disks=self._backends("vbd"))
        self.run(set_aside, 2 * _SHUTDOWN_SECONDS)
        self.run(f"mkdir -p {TOOLS}; {_NO_PERSISTENT_GRANTS}")
        for name in (_AGENT, _PROBE):
            self.target.copyTo(os.path.join(_FILES, name), f"{TOOLS}/{name}")
        self._start_agent()
        if not self._look and "--debug" not in self.weston_command():
            self.start_weston_with_debug()
            self._restart_weston()
            self.start_weston_as_before()

    def start_weston_with_debug(self, *more: str) -> None:
        """Let Weston's next starts have --debug, with which it gives screenshots to every client, and ``more``."""
        arguments = self.run("systemctl show -P ExecStart weston.service")
        # an interrupted run has left what it added
        command = found(r"argv\[\]=(.*?)(?: --debug.*?)? ;", arguments)[1]
        self.change_unit("weston.service", f"ExecStart=\nExecStart={' '.join([command, '--debug', *more])}")

    def make_kiosk(self, screens: dict[str, str], mode: str) -> None:
        """Restart Weston as a kiosk, until unmake_kiosk(): a window fills each output, also of a Weston that has ended
        itself and was started again. ``screens``: their app_ids by output; ``mode``: the outputs', where they have it.

        By the layer's configuration of a kiosk if that is installed, else by Dom0's own with the kiosk's shell.
        """
        text = self.run(f"cat {_KIOSK_INI} 2> /dev/null || cat {_DOM0_INI}")
        text = re.sub(r"^\[output\]\n(?:(?!\[).*\n?)*|^shell=.*\n", "", text, flags=re.M)
        text = text.replace("[core]\n", "[core]\nshell=kiosk-shell.so\n", 1)
        if "background-color" not in text:
            text += f"\n[shell]\nbackground-color={_GROUND}\n"
        for output, app_id in screens.items():
            text += f"\n[output]\nname={output}\nmode={mode}\napp-ids={app_id}\n"
        self._write(_TEST_INI, text, "true")
        if self.try_run(f"test -e {_KIOSK_TOML}")[0]:
            self.configure_backend('[connector."*"]\nplacement = "fullscreen"\nscale = "fit"\n')
        self.start_weston_with_debug(f"--config={_TEST_INI}")
        self._restart_weston()

    def unmake_kiosk(self) -> None:
        """Undo that."""
        self.restore_backend()
        self.start_weston_as_before()
        self.run(f"rm -f {_TEST_INI}")
        self._restart_weston()

    def _restart_weston(self) -> None:
        self.run("systemctl restart weston", 120)
        self.wait_for_services()

    def switch_on_screens(self) -> bool:
        """QEMU's screens that nobody looks at aren't connected for Linux: say that they are, and restart Weston.
        Whether there were any."""
        found_some = f"on=; for status in {_QEMU_SCREENS}; do [ $(cat $status) != disconnected ] || "
        status, _output = self.try_run(f"{found_some} {{ echo on > $status; on=1; }}; done; [ $on ]")
        if status == 0:
            self._restart_weston()
        return status == 0

    def switch_off_screens(self) -> None:
        """Let Linux see for itself again, and restart Weston."""
        self.run(f"for status in {_QEMU_SCREENS}; do echo detect > $status; done")
        self._restart_weston()

    def start_weston_as_before(self) -> None:
        """Undo that; the running Weston keeps its argument."""
        self.restore_unit("weston.service")

    # -- units and configuration, until restored

    def change_unit(self, unit: str, settings: str) -> None:
        """Lines of [Service] for a unit's next start."""
        self._write(_DROP_IN.format(unit=unit), f"[Service]\n{settings}\n", "systemctl daemon-reload")

    def restore_unit(self, unit: str) -> None:
        """Undo change_unit(); what runs keeps its settings."""
        path = _DROP_IN.format(unit=unit)
        self.run(f"[ ! -e {path} ] || {{ rm {path}; systemctl daemon-reload; }}")

    def lie(self, how: str) -> None:
        """Workers are files/xen_dmabuf_liar.py from their next start."""
        self.target.copyTo(os.path.join(_FILES, os.path.basename(_LIAR)), _LIAR)
        self.change_unit(WORKERS, f"ExecStart=\nExecStart=/usr/bin/python3 -I {_LIAR} {how} %i")

    def lie_no_more(self) -> None:
        """Undo that, from their next start."""
        self.restore_unit(WORKERS)
        self.run(f"rm -f {_LIAR}")

    def configure_backend(self, text: str) -> None:
        """More of backend.toml, for workers that start from now on."""
        self._write(_MORE_CONFIGURATION, text, _RELOAD)

    def restore_backend(self) -> None:
        """Undo configure_backend()."""
        self.run(f"rm -f {_MORE_CONFIGURATION}; {_RELOAD}")

    def show_idle(self, screen: str, shown: picture.Picture) -> None:
        """Show a picture where a screen's guest isn't there, until hide_idle()."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(picture.ppm(shown))
            file.flush()
            self.target.copyTo(file.name, _IDLE_PICTURE)
        self.run(f"chmod 644 {_IDLE_PICTURE}")
        self.configure_backend(f'[connector."{screen}"]\nabsent = "idle"\nidle = "{_IDLE_PICTURE}"\n')

    def hide_idle(self) -> None:
        """Undo show_idle()."""
        self.restore_backend()
        self.run(f"rm -f {_IDLE_PICTURE}")

    def _write(self, path: str, text: str, then: str) -> None:
        self.run(f"mkdir -p {os.path.dirname(path)} && printf %s {shlex.quote(text)} > {path} && {then}")

    def _start_agent(self) -> None:
        """One process answers ask(); one that an interrupted run has left is ended."""
        self.run(
            f"{_END_AGENT}; cd {TOOLS}; rm -f requests; "
            f"setsid python3 -I {_AGENT} {TOOLS} < /dev/null > agent.log 2>&1 & "
            "echo $! > agent.pid; while [ ! -p requests ] && kill -0 $!; do :; done"
        )
        if self.try_run(f"test -p {TOOLS}/requests")[0]:
            raise AssertionError(f"Dom0: {_AGENT} has ended:\n{self._agent_log()}")

    def _agent_log(self) -> str:
        return self.run(f"cat {TOOLS}/agent.log")

    def clean_up(self) -> None:
        """Remove what prepare() installed; the running Weston keeps its argument until it is restarted."""
        self.run(
            f"[ ! -e {TOOLS}/persistent ] || cat {TOOLS}/persistent > {_PERSISTENT_GRANTS}; "
            f"{_END_AGENT}; rm -rf {TOOLS}"
        )
        self.start_weston_as_before()

    def weston_command(self) -> str:
        """The running Weston's command line."""
        pid = self.main_pid("weston")
        return self.run(f"tr '\\0' ' ' < /proc/{pid}/cmdline") if pid else ""

    def weston_version(self) -> int:
        """The first number of it."""
        return int(found(r"^weston (\d+)", self.run("weston --version"))[1])

    def main_pid(self, unit: str) -> int:
        """A unit's main process, 0 if it doesn't run."""
        return int(self.run(f"systemctl show -P MainPID {unit}"))

    def wait_for_services(self, seconds: float = 120) -> None:
        """Wait until Weston and the backend run."""
        poll(
            lambda: self.try_run("systemctl is-active weston && systemctl is-active xen-dmabuf-backend")[0] == 0,
            seconds,
            "weston.service and xen-dmabuf-backend.service active",
        )

    # -- state

    def status(self) -> Json:
        """The backend's state."""
        return self._backend("status")

    def known(self) -> list[Json]:
        """The domains that the backend knows, without what only their workers know; no worker is waited for."""
        domains: list[Json] = self._backend("domains")["domains"]
        return domains

    def _backend(self, request: str) -> Json:
        status, output = self.ask(request)
        if status:
            raise AssertionError(f"Dom0: the backend's {request}: {output}")
        answer: Json = json.loads(output)
        return answer

    def wait_until_gone(self, domids: Collection[int], seconds: float) -> None:
        """Wait until neither Xen nor the backend has any of these domains."""
        status, output = self.ask("gone", seconds, *domids, timeout=seconds + 30)
        if status:
            raise AssertionError(f"domains {sorted(domids)} are not gone {output}")

    @functools.cached_property
    def domid(self) -> int:
        """The number of the domain that this is."""
        return int(self.run("xenstore-read domid"))

    def backend_node(self, kind: str, domid: int, number: int = 0) -> str:
        """Where the backend of a domain's device is in XenStore; ``kind``: vdispl, vinput or vbd."""
        return f"{self._backends(kind)}/{domid}/{number}"

    def _backends(self, kind: str) -> str:
        return f"/local/domain/{self.domid}/backend/{kind}"

    def grant_tables(self) -> list[str]:
        """Xen's grant tables (debug key g), as lines. Xen prints them in one call: its ring must have room for all."""
        text = self.run("xl debug-keys g; xl dmesg -c")
        before, mark, tables = text.rpartition("gnttab_usage_print_all [")
        if not mark:
            raise AssertionError(
                "xl debug-keys g: the head of the grant tables is lost; boot Xen with conring_size=4M, as the images "
                f"of meta-xen-dmabuf do. What is left:\n{before[-2000:]}"
            )
        return tables.splitlines()

    def mapped_grants(self) -> dict[int, int]:
        """How many grants of each domain Dom0 has mapped, by Xen's own table; no entry: none."""
        mapped: dict[int, int] = {}
        domid = -1
        for line in self.grant_tables():
            head = re.search(r"grant-table for remote d(\d+)", line)
            if head:
                domid = int(head[1])
            elif re.search(rf"\[0x[0-9a-f]+\]\s+{self.domid}\s", line):
                mapped[domid] = mapped.get(domid, 0) + 1
        return mapped

    def grants(self, domid: int) -> int:
        """The same for one domain."""
        return self.mapped_grants().get(domid, 0)

    def event_channels(self, domid: int) -> int:
        """Event channels of this domain to another one, by Xen's own table (debug key e), bound or not any more."""
        text = self.run("xl debug-keys e; xl dmesg -c")
        _before, mark, own = text.rpartition(f"Event channel information for domain {self.domid}:")
        if not mark:
            raise AssertionError(f"xl debug-keys e: no table of domain {self.domid}:\n{text[-2000:]}")
        return len(re.findall(rf" d={domid}\b", own.partition("Event channel information for domain ")[0]))

    def maptrack_frames(self) -> int:
        """Pages in which Xen notes what Dom0 has mapped, 256 grants in each; they are never given back."""
        lines = self.grant_tables()
        (own,) = [i for i, line in enumerate(lines) if re.search(rf"grant-table for remote d{self.domid}\b", line)]
        return int(found(r"(\d+) maptrack frames", lines[own + 1])[1])

    def memory(self) -> tuple[int, int]:
        """(Xen's free memory, Dom0's available memory) in MiB."""
        words = self.run(
            "xl info | sed -n 's/^free_memory *: //p'; sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"
        ).split()
        return int(words[0]), int(words[1]) // 1024

    def mapped_dmabufs(self, unit: str) -> int:
        """How many mappings of dma-bufs a unit's main process has."""
        return int(self.run(f"grep -c /dmabuf: /proc/{self.main_pid(unit)}/maps || true"))

    def main_pids(self) -> list[str]:
        """The main processes of backend and Weston: another one after any restart."""
        return self.run("systemctl show -P MainPID xen-dmabuf-backend weston").split()

    def journal(self, matches: str, output: str = "cat") -> str:
        """The lines of the journal since boot that match, whole: no file that is written just then is left out.

        journalctl leaves a file out that journald makes larger at that moment, says so, and ends with 0. An archived
        file that can't be read, as a board has after its power was cut, isn't waited for.

        :param matches: journalctl's own: ``-u unit``, ``_PID=number``, ``-n lines``.
        :param output: its output mode.
        :raises AssertionError: a file that isn't archived stays unreadable; it names the file.
        """
        left_out = ""

        def read() -> list[str] | None:
            nonlocal left_out
            text = self.run(f"journalctl -q -b --no-pager -o {output} {matches}")
            left_out = found(_LEFT_OUT, text)[0]
            return None if re.search(_LEFT_OUT_IN_USE, left_out) else [text[len(left_out) :]]

        try:
            return poll(read, _JOURNAL_SECONDS, f"journalctl {matches} reads all files in use")[0]
        except AssertionError as error:
            if not left_out:
                raise
            raise AssertionError(f"{error}\n{left_out}Such a file is broken: remove it from Dom0") from error

    def backend_log(self, lines: int = 120) -> str:
        """What the backend's units have said last."""
        return str(self.try_run(f"journalctl -q --no-pager -o short-monotonic -n {lines} -u 'xen-dmabuf*'")[1])

    def outputs(self) -> dict[str, tuple[int, int, int, int]]:
        """Weston's outputs by name: x, y, width, height in its screenshot."""
        status, output = self.ask("outputs")
        if status:
            raise AssertionError(f"Dom0: Weston's outputs: {output}")
        seen = json.loads(output)
        left, top = (min(place[axis] for place in seen.values()) for axis in (0, 1))
        return {name: (x - left, y - top, width, height) for name, (x, y, width, height) in seen.items()}

    def screenshot(self) -> picture.Picture:
        """Dom0's screen: by a target's own look at it (Watched), else all outputs where they are, as Weston gives it
        (weston-output-capture) to its own client."""
        return self._look() if self._look else self._captured()

    def _captured(self) -> picture.Picture:
        name = "wayland-screenshot-*.png"
        self.run(f"cd {TOOLS}; rm -f {name}; {_WAYLAND} weston-screenshooter; mv {name} screen.png")
        with tempfile.TemporaryDirectory() as folder:
            local = os.path.join(folder, "screen.png")
            self.target.copyFrom(f"{TOOLS}/screen.png", local)
            with open(local, "rb") as file:
                return picture.read_png(file.read())

    def probe(self, *words: object) -> str:
        """A look at a worker from outside (files/xen_dmabuf_probe.py)."""
        return self.run(f"python3 {TOOLS}/{_PROBE} {' '.join(map(str, words))}")
