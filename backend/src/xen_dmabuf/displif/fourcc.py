# SPDX-License-Identifier: MIT
"""Pixel formats (include/uapi/drm/drm_fourcc.h): codes, depths, and wl_shm's two special codes."""

from __future__ import annotations


def code(text: str) -> int:
    return int.from_bytes(text.encode("ascii"), "little")


XRGB8888 = code("XR24")
ARGB8888 = code("AR24")
RGB565 = code("RG16")

# bits per pixel of the single-plane formats that drm_xen_front and displif users send
BITS = {
    XRGB8888: 32,
    ARGB8888: 32,
    code("XB24"): 32,
    code("AB24"): 32,
    code("RX24"): 32,
    code("RA24"): 32,
    code("BX24"): 32,
    code("BA24"): 32,
    code("XR30"): 32,
    code("AR30"): 32,
    code("RG24"): 24,
    code("BG24"): 24,
    RGB565: 16,
    code("XR12"): 16,
    code("AR12"): 16,
    code("XR15"): 16,
    code("AR15"): 16,
    code("YUYV"): 16,
}
_OPAQUE = {
    "AR24": "XR24",
    "AB24": "XB24",
    "RA24": "RX24",
    "BA24": "BX24",
    "AR30": "XR30",
    "AR12": "XR12",
    "AR15": "XR15",
}
OPAQUE = {code(text): code(twin) for text, twin in _OPAQUE.items()}
"""Formats with alpha, and the same without."""


def name(value: int) -> str:
    """Four characters, or hexadecimal if they don't print."""
    text = value.to_bytes(4, "little").decode("latin-1")
    return text if text.isascii() and text.isprintable() else f"0x{value:08x}"


def to_shm(value: int) -> int:
    """wayland.xml, wl_shm.format: ARGB8888 is 0, XRGB8888 is 1, all others are their fourcc."""
    return {ARGB8888: 0, XRGB8888: 1}.get(value, value)


def from_shm(value: int) -> int:
    return {0: ARGB8888, 1: XRGB8888}.get(value, value)
