# SPDX-License-Identifier: MIT
"""`xen-dmabuf-backend status` for people."""

from __future__ import annotations

from collections.abc import Iterator


def status_lines(answer: dict) -> Iterator[str]:
    """Lines of text from the supervisor's answer.

    A worker's strings are as its DomU may have them: they bring no control codes to a terminal.
    """
    for line in _lines(answer):
        yield "".join(letter if letter.isprintable() else "?" for letter in line)


def _lines(answer: dict) -> Iterator[str]:
    for domain in answer["domains"]:
        who = f"{domain['name']} (domid {domain['domid']})"
        yield f"{who}: worker {domain['pid']}, {domain['worker']}"
        if domain.get("caches"):
            yield f"  caches: {domain['caches']}"
        for device in domain["devices"]:
            yield from _device_lines(device)
    totals = answer["totals"]
    yield f"{totals['domains']} domain(s), {totals['pixel_bytes_copied']} octets of pixels copied"


def _device_lines(device: dict) -> Iterator[str]:
    reason = f": {device['reason']}" if device["reason"] else ""
    yield f"  vdispl {device['device']}: {device['link']}{reason}"
    for connector in device.get("connectors", []):
        yield (
            f"    connector {connector['name']} {connector['width']}x{connector['height']}:"
            f" {connector['flips_requested']} flips, {connector['flips_shown']} shown,"
            f" {connector['flips_not_shown']} not shown,"
            f" {connector['requests_refused']} requests refused"
        )
    for buffer in device.get("buffers", []):
        yield (
            f"    buffer {buffer['cookie']:#x} {buffer['width']}x{buffer['height']}"
            f" {'/'.join(buffer['formats']) or '-'} stride {buffer['stride']}:"
            f" {buffer['strategy'] or '-'} ({buffer['allocator'] or '-'}), {buffer['why']}"
        )
