# SPDX-License-Identifier: MIT
"""What the supervisor tells a worker about a connector."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConnectorSpec:
    """What XenStore says about a connector, checked; ``name`` is the unique-id or the index."""

    index: int
    name: str
    width: int
    height: int
    req_ref: int
    req_port: int
    evt_ref: int
    evt_port: int
