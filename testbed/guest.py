# SPDX-License-Identifier: MIT
"""Dom0 and DomUs over SSH, by the OpenSSH client with one shared connection for each guest."""

from __future__ import annotations

import json
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oeqa.runtime.xen_dmabuf.dom0 import found

from . import deadline, keys
from .deadline import wait_until
from .errors import LostVMError, ProofError
from .qemu import DOMU_ADDRESSES, Qemu

Json = dict[str, Any]
"""An object as a program prints it."""

# with the socket named it need not read its configuration, which takes a third of its time
STATUS = "xen-dmabuf-backend status --json --socket /run/xen-dmabuf/control.sock"
SSH_FAILED = 255
GREETING_SECONDS = (0.5, 2.5)
"""How long a greeting of SSH is waited for: at the first attempt, and at most as long as the guest says nothing."""
REFUSED_SECONDS = 15
"""The same once it has refused: it is up, and its first greeting may take long."""


@dataclass(frozen=True)
class Result:
    """A finished command: ``output`` holds stdout and stderr."""

    command: str
    status: int
    output: str


class Guest:
    """A guest that answers to SSH as root. Not thread-safe."""

    def __init__(self, machine: Qemu, name: str) -> None:
        self.machine = machine
        self.name = name

    def ssh_command(self, connect_seconds: int = 15) -> list[str]:
        """The ssh command line without the remote command."""
        folder = keys.folder()
        options = {
            "IdentityFile": folder / "client",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": folder / "known_hosts",
            "StrictHostKeyChecking": "yes",
            "ControlMaster": "auto",
            "ControlPersist": "yes",
            "ControlPath": self.machine.sockets / self.name,
            "ConnectTimeout": int(connect_seconds * deadline.slowness),
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "8",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "Port": self.machine.ports[self.name],
        }
        return ["ssh", "-F", "none", *[f"-o{key}={value}" for key, value in options.items()], "root@127.0.0.1"]

    def try_run(self, command: str, timeout: float = 60, connect_seconds: int = 15) -> Result:
        """Run a shell command; never raises for its status. LostVMError if QEMU is gone."""
        timeout *= deadline.slowness
        try:
            done = subprocess.run(
                [*self.ssh_command(connect_seconds), command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            self.machine.check_alive()
            text = (error.stdout or b"").decode(errors="replace")
            return Result(command, SSH_FAILED, f"{text}\n[no end within {timeout:.0f} s]")
        if done.returncode == SSH_FAILED:
            self.machine.check_alive()
        return Result(command, done.returncode, done.stdout.decode(errors="replace"))

    def run(self, command: str, timeout: float = 60) -> str:
        """Run a shell command and return its output; ProofError with command and output if it fails."""
        result = self.try_run(command, timeout)
        if result.status:
            raise ProofError(f"{self.name}: `{command}` ended with {result.status}:\n{result.output}")
        return result.output

    def copy_to(self, source: Path, target: str) -> None:
        """Write a host file into the guest."""
        with open(source, "rb") as data:
            done = subprocess.run(
                [*self.ssh_command(), f"cat > {target}"], stdin=data, capture_output=True, check=False
            )
        if done.returncode:
            raise ProofError(f"{self.name}: can't write {target}: {done.stderr.decode(errors='replace')}")

    def read_file(self, path: str) -> bytes:
        """A guest's file as it is."""
        done = subprocess.run(
            [*self.ssh_command(), f"cat {path}"], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode:
            raise ProofError(f"{self.name}: can't read {path}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def wait_for_ssh(self, seconds: float) -> None:
        """Wait until SSH answers; LostVMError if it never does."""
        patience = GREETING_SECONDS[0]

        def answers() -> bool:
            nonlocal patience
            greeting = self._greets(patience)
            if greeting == b"SSH-":
                return self.try_run("true").status == 0
            if greeting is not None:
                patience = REFUSED_SECONDS
            elif patience < GREETING_SECONDS[1]:
                patience *= 1.2
            return False

        try:
            wait_until(answers, seconds, f"SSH of {self.name}")
        except TimeoutError as error:
            raise LostVMError(f"{error}\n{self.machine.serial_tail()}") from error

    def _greets(self, seconds: float) -> bytes | None:
        """What an SSH server says first; nothing if the guest refuses, None if it is silent so long.

        QEMU accepts for a guest that is not up yet and then asks it every six seconds: short attempts find the
        guest sooner, and cost it less than ssh's own."""
        self.machine.check_alive()
        try:
            with socket.create_connection(
                ("127.0.0.1", self.machine.ports[self.name]), seconds * deadline.slowness
            ) as connection:
                return connection.recv(4)
        except TimeoutError:
            return None
        except OSError:
            return b""

    def forget(self) -> None:
        """Drop the shared connection, after the guest has ended."""
        subprocess.run([*self.ssh_command(), "-O", "exit"], capture_output=True, check=False)


class Dom0(Guest):
    """Dom0, with the toolstack's commands."""

    def __init__(self, machine: Qemu) -> None:
        super().__init__(machine, "dom0")

    def create(self, name: str, **overrides: str) -> int:
        """``xl create`` of the layer's domu.cfg under ``name``; keyword arguments are xl overrides.

        Returns the domain id.
        """
        # A fixed MAC: QEMU's user network remembers which one had the address before.
        mac = f"00:16:3e:00:00:{int(DOMU_ADDRESSES[name].rsplit('.')[-1]):02x}"
        lines = {
            "name": f'"{name}"',
            "vif": f'["bridge=xenbr0,mac={mac}"]',
            # several DomUs may have a disk that they only read
            "disk": '["file:/var/lib/xen/images/domu.ext4,xvda,r"]',
            **overrides,
        }
        arguments = " ".join(f"'{key}={value}'" for key, value in lines.items())
        # grants of a DomU's disk would come and go between two counts
        output = self.run(
            "echo N > /sys/module/xen_blkback/parameters/feature_persistent && "
            f"xl create /etc/xen/domu.cfg {arguments} && echo created $(xl domid {name})",
            timeout=90,
        )
        return int(found(r"^created (\d+)$", output)[1])

    def domains(self) -> list[Json]:
        """``xl list -l``: all domains but Dom0, zombies included."""
        # xl prints nothing when a domain vanishes while it looks
        text = wait_until(lambda: self.run("xl list -l 2>/dev/null || true").strip(), 30, "xl list -l")
        return [entry for entry in json.loads(text) if entry["domid"] != 0]

    def status(self) -> Json:
        """The backend's own state."""
        status: Json = json.loads(self.run(STATUS))
        return status


class Target:
    """Dom0 as an oeqa target (oeqa.core.target.ssh): the methods that the image tests use."""

    def __init__(self, dom0: Dom0) -> None:
        self._dom0 = dom0

    def run(self, command: str, timeout: float = 60) -> tuple[int, str]:
        """(status, output without the line end)."""
        result = self._dom0.try_run(command, timeout)
        return result.status, result.output.rstrip()

    def copyTo(self, source: str, destination: str) -> None:  # noqa: N802 (oeqa's name)
        """Copy a file to Dom0."""
        self._dom0.copy_to(Path(source), destination)

    def copyFrom(self, source: str, destination: str) -> None:  # noqa: N802
        """Copy a file from Dom0."""
        Path(destination).write_bytes(self._dom0.read_file(source))
