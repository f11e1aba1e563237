# SPDX-License-Identifier: MIT
"""`xen-dmabuf-backend status --metrics`: OpenMetrics text.

Without python3-prometheus-client: an image would carry an HTTP server for fifty lines of text.

Only counters and gauges, without time stamps: so the older Prometheus text format, which is what a
node exporter's textfile collector reads, takes it, too. Nothing that a DomU or its worker names
becomes a label: either could fill a monitoring server with ever new series. A domain's name is the
toolstack's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..config import STRATEGIES
from .report import printable

_PREFIX = "xen_dmabuf_"
_CONNECTORS = 16
"""The most that the configuration allows a domain."""


class _Family:
    """One metric with its samples. ``name`` ends with ``unit`` if there is one."""

    def __init__(self, name: str, kind: str, text: str, unit: str = "") -> None:
        assert not unit or name.endswith(f"_{unit}")
        self._name = _PREFIX + name
        self._kind = kind
        self._text = text
        self._unit = unit
        self._samples: dict[str, int | float] = {}

    def add(self, value: int | float, **labels: object) -> None:
        """The first of equal labels counts: a second would spoil the whole text for its reader."""
        pairs = ",".join(f'{name}="{_escaped(str(text))}"' for name, text in labels.items())
        self._samples.setdefault(f"{{{pairs}}}" if pairs else "", value)

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self._name} {self._text}"
        yield f"# TYPE {self._name} {self._kind}"
        if self._unit:
            yield f"# UNIT {self._name} {self._unit}"
        total = "_total" if self._kind == "counter" else ""
        for labels, value in self._samples.items():
            yield f"{self._name}{total}{labels} {value}"


def _escaped(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')


_OF_DOMAIN = {
    "restarts": ("worker_restarts", "counter", "Times a worker went on from its stored state."),
    "releasing_pages": (
        "releasing_pages",
        "gauge",
        "Pages of 4096 bytes to be given back that the compositor still holds.",
        "pages",
    ),
    "pages_late": (
        "late_pages",
        "counter",
        "Pages of 4096 bytes that the compositor held longer than a frontend waits.",
        "pages",
    ),
    "pixel_bytes_copied": (
        "copied_pixel_bytes",
        "counter",
        "Bytes of pixels that the CPU copied; 0 with strategies map and export.",
        "bytes",
    ),
}
_OF_CONNECTOR = {
    "flips_requested": ("flips_requested", "counter", "Page flips that the frontend asked for."),
    "flips_shown": ("flips_shown", "counter", "Page flips that the compositor has drawn."),
    "flips_not_shown": ("flips_not_shown", "counter", "Page flips answered without being drawn."),
    "requests_refused": ("requests_refused", "counter", "Requests answered with an error."),
    "events_dropped": ("events_dropped", "counter", "Events that the frontend left no room for."),
}
_AGES = {
    "flip_age": ("flip_age_seconds", "gauge", "Time since the last flip was asked for.", "seconds"),
    "frame_age": ("frame_age_seconds", "gauge", "Time since the last flip was drawn.", "seconds"),
}


class _Metrics:
    """All families, filled from one status."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._domains = _Family("domains", "gauge", "Domains with a vdispl or vkb device.")
        self._up = _Family("worker_up", "gauge", "1 if the domain's worker is ready and answers.")
        self._held = _Family("held_pages", "gauge", "Pages of 4096 bytes of the domain's display buffers.", "pages")
        self._buffers = _Family("buffers", "gauge", "Display buffers by strategy; none: not yet.")
        tables = _OF_DOMAIN | _OF_CONNECTOR | _AGES
        self._by_field = {field: _Family(*words) for field, words in tables.items()}
        self._domains.add(len(status["domains"]))
        for domain in status["domains"]:
            self._add_domain(domain)

    def families(self) -> Iterator[_Family]:
        yield from (self._domains, self._up, self._held, self._buffers)
        yield from self._by_field.values()

    def _add_domain(self, domain: dict[str, Any]) -> None:
        labels = {"domid": domain["domid"], "domain": domain["name"]}
        ready = domain["worker"] == "ready"
        if domain["worker"] != "none":  # without a vdispl device there is nothing to be up
            self._up.add(int(ready), **labels)
        if not ready:
            return  # its counters aren't known, and a 0 would be taken for a restart
        for field in _OF_DOMAIN:
            self._by_field[field].add(domain[field], **labels)
        buffers = [buffer for device in domain["devices"] for buffer in device.get("buffers", ())]
        self._held.add(sum(buffer["pages"] for buffer in buffers), **labels)
        used = Counter(buffer["strategy"] for buffer in buffers)
        for strategy in STRATEGIES:
            self._buffers.add(used.pop(strategy, 0), **labels, strategy=strategy)
        self._buffers.add(used.total(), **labels, strategy="none")
        for device in domain["devices"]:
            for connector in device.get("connectors", ())[:_CONNECTORS]:
                self._add_connector(
                    connector,
                    {**labels, "device": device["device"], "connector": connector["index"]},
                )

    def _add_connector(self, connector: dict[str, Any], labels: dict[str, Any]) -> None:
        for field in _OF_CONNECTOR:
            self._by_field[field].add(connector[field], **labels)
        for field in _AGES:
            if connector[field] >= 0:
                self._by_field[field].add(connector[field] / 1000, **labels)


def metrics_text(status: dict[str, Any]) -> str:
    """The OpenMetrics text of a status (docs/status-schema.md); ends with a line "# EOF"."""
    lines = [line for family in _Metrics(status).families() for line in family.lines()]
    return "\n".join([*lines, "# EOF", ""])
