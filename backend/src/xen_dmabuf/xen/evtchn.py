# SPDX-License-Identifier: MIT
"""/dev/xen/evtchn: event channels of one other domain.

Source: include/uapi/xen/evtchn.h of Linux 6.12. Failures are OSError with errno and the device's
path. One thread only. Nothing blocks.
"""

from __future__ import annotations

import os
import struct

from ..linux import ioctl
from ..linux.ioctl import NONE

PATH = "/dev/xen/evtchn"

_BIND_INTERDOMAIN = ioctl.number(NONE, "E", 1, 8)
_UNBIND = ioctl.number(NONE, "E", 3, 4)
_NOTIFY = ioctl.number(NONE, "E", 4, 4)
_RESTRICT_DOMID = ioctl.number(NONE, "E", 6, 2)
_PORT = struct.Struct("@I")
_PORTS = 64


class Evtchn:
    """One open file of the device, restricted to one domain for good.

    Its ports and unread events stay with the file: a process that takes it over has both.
    """

    def __init__(self, domid: int, fd: int = -1) -> None:
        """``fd``: an open file that is taken over, restricted already; -1: open the device."""
        self._domid = domid
        if fd >= 0:
            self.fd = fd
            return
        self.fd = ioctl.open_device(PATH)
        try:
            if domid:  # evtchn.c refuses 0; as its own frontend Dom0 needs no fence
                ioctl.call(self.fd, _RESTRICT_DOMID, bytearray(struct.pack("@H", domid)), PATH)
            os.set_blocking(self.fd, False)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Unbind all ports, unless another process has the file; idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def bind(self, remote_port: int) -> int:
        """Bind the domain's port; returns the local one."""
        argument = bytearray(struct.pack("@II", self._domid, remote_port))
        return ioctl.call(self.fd, _BIND_INTERDOMAIN, argument, PATH)

    def unbind(self, port: int) -> None:
        ioctl.call(self.fd, _UNBIND, bytearray(struct.pack("@I", port)), PATH)

    def notify(self, port: int) -> None:
        ioctl.call(self.fd, _NOTIFY, bytearray(_PORT.pack(port)), PATH)

    def read(self) -> list[int]:
        """The local ports that fired; each stays masked until unmask(). BlockingIOError if none."""
        data = os.read(self.fd, 4 * _PORTS)
        return [port for (port,) in _PORT.iter_unpack(data[: len(data) // 4 * 4])]

    def unmask(self, port: int) -> None:
        os.write(self.fd, _PORT.pack(port))
