# SPDX-License-Identifier: MIT
"""What a process does to itself (prctl(2), seccomp(2)). Any thread."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from ..errors import oserror

_SET_DUMPABLE, _SET_NAME, _SET_SECCOMP, _SET_NO_NEW_PRIVS = 4, 15, 22, 38


def _prctl(option: int, argument: object, more: object = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, more, 0, 0):
        raise oserror(ctypes.get_errno(), "prctl")


def forbid_inspection() -> None:
    """Keep other processes of the same account out of this one's memory."""
    _prctl(_SET_DUMPABLE, 0)


def name_process(name: str) -> None:
    """What ps and top show of this process: at most 15 bytes."""
    _prctl(_SET_NAME, name.encode())


def age(then: float) -> float:
    """Seconds from this process's start to ``then``, a time of the monotonic clock."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        started = int(file.read().rsplit(")", 1)[1].split()[19])  # proc_pid_stat(5): starttime
    return then - started / os.sysconf("SC_CLK_TCK")


# -- no other program, no other process

_FILTER = 2
_INSTRUCTION = struct.Struct("@HBBI")  # struct sock_filter of linux/filter.h
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data of linux/seccomp.h, little endian
_ALLOWED, _FAILS = 0x7FFF0000, 0x00050000
_CLONE_THREAD = 0x10000


class _Machine:
    """Of uname(2): its number in linux/audit.h, and numbers of its system calls."""

    def __init__(self, audit: int, processes: tuple[int, ...], clone: int, above: int) -> None:
        """``processes``: those that begin a process or a program; ``above``: no call has this number or more."""
        self.audit, self.processes, self.clone, self.above = audit, processes, clone, above


_CLONE3 = 435
_MACHINES = {
    "x86_64": _Machine(0xC000003E, (57, 58, 59, 322), 56, 0x40000000),  # fork, vfork, execve, execveat; not x32
    "aarch64": _Machine(0xC00000B7, (221, 281), 220, 0x40000000),  # execve, execveat
}


class _Program(ctypes.Structure):  # struct sock_fprog of linux/filter.h
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _filter(machine: _Machine) -> bytes:
    refused, unknown, allowed = "refused", "unknown", "allowed"
    lines: list[tuple[int, int, str | None, str | None]] = [
        # code, value, where to go if it is true, and if not; None: the next line
        (_LOAD, _ARCHITECTURE, None, None),
        (_IF_EQUAL, machine.audit, None, refused),
        (_LOAD, _NUMBER, None, None),
        (_IF_AT_LEAST, machine.above, refused, None),
        *((_IF_EQUAL, number, refused, None) for number in machine.processes),
        (_IF_EQUAL, _CLONE3, unknown, None),  # its flags are in memory; C libraries use clone then
        (_IF_EQUAL, machine.clone, None, allowed),
        (_LOAD, _FIRST_ARGUMENT, None, None),
        (_IF_SET, _CLONE_THREAD, allowed, refused),
    ]
    ends = {refused: _FAILS | errno.EPERM, unknown: _FAILS | errno.ENOSYS, allowed: _ALLOWED}
    places = {end: len(lines) + position for position, end in enumerate(ends)}

    def distance(place: int, target: str | None) -> int:
        return places[target] - place - 1 if target else 0

    program = [
        _INSTRUCTION.pack(code, distance(place, yes), distance(place, no), value)
        for place, (code, value, yes, no) in enumerate(lines)
    ]
    return b"".join([*program, *(_INSTRUCTION.pack(_RETURN, 0, 0, value) for value in ends.values())])


def forbid_processes() -> None:
    """This thread, and those that it starts from now on, can start threads only: fork and exec are EPERM.

    A unit's SystemCallFilter= can't do this: it holds before the unit's own program is run, and it
    doesn't tell a thread from a process. OSError if the kernel can't (CONFIG_SECCOMP_FILTER) or the
    machine isn't known here.
    """
    name = os.uname().machine
    machine = _MACHINES.get(name)
    if machine is None:
        raise OSError(errno.EOPNOTSUPP, f"no system call numbers of machine {name} here")
    code = _filter(machine)
    _prctl(_SET_NO_NEW_PRIVS, 1)
    _prctl(_SET_SECCOMP, _FILTER, ctypes.byref(_Program(len(code) // _INSTRUCTION.size, code)))
