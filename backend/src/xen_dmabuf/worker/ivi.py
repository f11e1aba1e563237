# SPDX-License-Identifier: MIT
"""ivi_application, the protocol of in-vehicle shells, which wayland-protocols doesn't have.

Defined by the names, numbers and types of the interface that GENIVI's (now COVESA's) ivi-application
version 1 has: surface_create(ivi_id, surface, new id), ivi_surface.destroy, ivi_surface.configure(width,
height). Source: ivi-application.xml, which Weston installs.
"""

from __future__ import annotations

from typing import Any

from pywayland.protocol.wayland import WlSurface
from pywayland.protocol_core import Argument, ArgumentType, Interface, Proxy


class IviSurface(Interface):
    name = "ivi_surface"
    version = 1


class IviApplication(Interface):
    name = "ivi_application"
    version = 1


class IviSurfaceProxy(Proxy[IviSurface]):
    interface = IviSurface

    @IviSurface.request()
    def destroy(self) -> None:
        self._marshal(0)
        self._destroy()


class IviApplicationProxy(Proxy[IviApplication]):
    interface = IviApplication

    @IviApplication.request(
        Argument(ArgumentType.Uint),
        Argument(ArgumentType.Object, interface=WlSurface),
        Argument(ArgumentType.NewId, interface=IviSurface),
    )
    def surface_create(self, ivi_id: int, surface: Any) -> Any:
        """Give ``surface`` the role that a controller knows by ``ivi_id``."""
        return self._marshal_constructor(0, IviSurface, ivi_id, surface)


class _IviSurfaceResource:
    """Where pywayland keeps an interface's events."""

    @IviSurface.event(Argument(ArgumentType.Int), Argument(ArgumentType.Int))
    def configure(self, width: int, height: int) -> None:
        """A size that the controller suggests."""


for _interface, _proxy in ((IviSurface, IviSurfaceProxy), (IviApplication, IviApplicationProxy)):
    _interface._gen_c()
    _interface.proxy_class = _proxy
