# SPDX-License-Identifier: MIT
"""`xen-dmabuf-backend status` for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_IDLE = {"shown": "shown", "guest": "not shown, its guest is there", "waits": "waits for the compositor or its worker"}


def printable(text: str) -> str:
    """A worker's strings are as its DomU may have them: they bring no control codes to a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def status_lines(answer: dict[str, Any]) -> Iterator[str]:
    """Lines of text from the supervisor's answer (docs/status-schema.md)."""
    return map(printable, _lines(answer))


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    for domain in answer["domains"]:
        yield from _domain_lines(domain)
    for screen in answer["idle"]:
        yield f"idle picture of {screen['name']}: {_IDLE.get(screen['state'], screen['state'])}"
    totals = answer["totals"]
    yield f"{totals['domains']} domain(s), {totals['pixel_bytes_copied']} bytes of pixels copied"


def _domain_lines(domain: dict[str, Any]) -> Iterator[str]:
    yield f"{domain['name']} (domid {domain['domid']}): worker {domain['pid']}, {domain['worker']}"
    if domain["worker"] == "ready":
        compositor = "connected" if domain["compositor"] else "not connected"
        yield (
            f"  compositor {compositor}, GPU driver {domain['driver'] or '-'},"
            f" flips {domain['flips']}, {domain['restarts']} restart(s),"
            f" {domain['pixel_bytes_copied']} bytes of pixels copied"
        )
        yield (
            f"  the compositor holds {domain['releasing_pages']} page(s) that are to be given back;"
            f" {domain['pages_late']} came too late"
        )
    if domain["caches"]:
        yield f"  caches: {domain['caches']}"
    for device in domain["devices"]:
        yield from _device_lines(device)
    for device in domain["inputs"]:
        yield from _input_lines(device)


def _input_lines(device: dict[str, Any]) -> Iterator[str]:
    reason = f": {device['reason']}" if device["reason"] else ""
    yield f"  vkb {device['device']}: {device['link']}{reason}"
    if "events_sent" in device:
        heard = [f"{role} of {device[role]}" for role in ("keyboard", "pointer", "touch") if device[role]]
        yield (
            f"    {', '.join(heard) or 'nothing'}: {device['events_sent']} events sent,"
            f" {device['events_coalesced']} coalesced, {device['events_dropped']} dropped,"
            f" {device['events_waiting']} waiting; {device['pressed']} keys and {device['touches']} fingers down,"
            f" {device['keys_withheld']} keys withheld before a click"
        )


def _device_lines(device: dict[str, Any]) -> Iterator[str]:
    reason = f": {device['reason']}" if device["reason"] else ""
    yield f"  vdispl {device['device']}: {device['link']}{reason}"
    if device["warning"]:
        yield f"    {device['warning']}"
    for connector in device.get("connectors", ()):
        hidden = ", hidden" if connector["hidden"] else ""
        hidden = f" on {connector['output']}{hidden}" if connector["output"] else hidden
        again = connector["refresh_per_second"]
        hidden += f", drawn without flips, shown again {again} times a second" if connector["refreshing"] else ""
        yield (
            f"    connector {connector['name']} {connector['width']}x{connector['height']}{hidden}:"
            f" {connector['flips_requested']} flips, {connector['flips_shown']} shown,"
            f" {connector['flips_not_shown']} not shown,"
            f" {connector['requests_refused']} requests refused,"
            f" {connector['events_dropped']} events dropped;"
            f" last flip {_age(connector['flip_age'])}, last frame {_age(connector['frame_age'])}"
            f"{_latency(connector['present_latency'])}"
        )
        if connector["warning"]:
            yield f"    connector {connector['name']}: {connector['warning']}"
    for buffer in device.get("buffers", ()):
        yield (
            f"    buffer {buffer['cookie']:#x} {buffer['width']}x{buffer['height']}"
            f" {'/'.join(buffer['formats']) or '-'} stride {buffer['stride']} bytes:"
            f" {buffer['strategy'] or '-'} ({buffer['allocator'] or '-'}), {buffer['why']}"
        )


def _latency(milliseconds: int) -> str:
    return "" if milliseconds < 0 else f", on the screen {milliseconds} ms after its commit"


def _age(milliseconds: int) -> str:
    if milliseconds < 0:
        return "never"
    return f"{milliseconds} ms ago" if milliseconds < 10_000 else f"{milliseconds // 1000} s ago"
