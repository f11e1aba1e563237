# SPDX-License-Identifier: MIT
"""The reading side of the pattern must find what is there and refuse what is not."""

import shutil
import subprocess

import numpy as np
import pytest

from oeqa.runtime.xen_dmabuf import picture
from testbed import pattern
from testbed.errors import ProofError
from testbed.layout import PATTERN


def screen_with(picture, x, y, size=(300, 400)):
    screen = np.full((*size, 3), 40, np.uint8)
    screen[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return screen


@pytest.mark.parametrize(("width", "height"), [(320, 240), (161, 99), (80, 60), (40, 40)])
def test_exact_picture_is_found(width, height):
    screen = screen_with(pattern.frame(width, height, 3, 70000), 17, 23)
    found = pattern.require_exact(screen, width, height, 3, 70000)
    assert found == pattern.Sighting(17, 23, 3, 70000)


def test_one_wrong_pixel_is_named():
    screen = screen_with(pattern.frame(200, 100, 0, 5), 10, 20)
    screen[20 + 50, 10 + 60] ^= 1
    with pytest.raises(ProofError, match=r"1 of 20000 pixels differ, the first at x=60 y=50"):
        pattern.require_exact(screen, 200, 100, 0, 5)


def test_another_frame_is_refused():
    screen = screen_with(pattern.frame(200, 100, 0, 5), 10, 20)
    with pytest.raises(ProofError, match="shows frame 5, the DomU drew 6"):
        pattern.require_exact(screen, 200, 100, 0, 6)


def test_another_stream_is_not_taken():
    screen = screen_with(pattern.frame(200, 100, 1, 5), 10, 20)
    with pytest.raises(ProofError, match="no picture of stream 0"):
        pattern.require_exact(screen, 200, 100, 0, 5)


EXPANSIONS = {
    "repeated": lambda value, bits: value << 8 - bits | value >> 2 * bits - 8,
    "nearest": lambda value, bits: (value * 510 + 2**bits - 1) // (2 * (2**bits - 1)),
    "cut": lambda value, bits: value * 255 // (2**bits - 1),
}


@pytest.mark.parametrize("expand", EXPANSIONS.values(), ids=EXPANSIONS)
def test_a_picture_of_16_bits_is_found_however_it_was_expanded(expand):
    drawn = np.asarray(pattern.frame(60, 40, 0, 5), np.uint32)
    shown = np.stack([expand(drawn[..., i] >> (8 - n), n) for i, n in enumerate((5, 6, 5))], -1).astype(np.uint8)
    rows = [bytes(row) for row in screen_with(shown, 10, 20)]
    wanted = picture.as_kept([bytes(row.astype(np.uint8)) for row in drawn], "RG16")
    assert picture.find(picture.as_shown(rows, "RG16"), wanted) == (10, 20)
    for bit in (8, 4):  # of a kept bit, and of what no expansion makes
        wrong = bytearray(rows[25])
        wrong[3 * 15] ^= bit
        assert picture.find(picture.as_shown([*rows[:25], bytes(wrong), *rows[26:]], "RG16"), wanted) is None


def test_few_values_are_an_expansion_of_16_bits():
    """At most two for each value of a channel, beside each other."""
    for channel, bits in enumerate((5, 6, 5)):
        for value in range(256):
            pixel = bytes(value if i == channel else 0 for i in range(3))
            (kept,), (shown,) = picture.as_kept([pixel], "RG16"), picture.as_shown([pixel], "RG16")
            exact = (value >> 8 - bits) * 255 / (2**bits - 1)
            assert (shown == kept) == (abs(value - exact) < 1)


def test_hidden_corner_is_located_by_the_other():
    screen = screen_with(pattern.frame(200, 100, 0, 5), 10, 20)
    screen[20:40, 10:60] = 40
    assert pattern.locate(screen, 200, 100, 0) == pattern.Sighting(10, 20, 0, 5)


DRAW = r"""
#include <stdio.h>
#include <stdlib.h>
#include <drm_fourcc.h>
#include "picture.h"
int main(void)
{
	struct picture p = { .width = 333, .height = 120, .pitch = 333 * 4, .fourcc = DRM_FORMAT_XRGB8888 };
	p.pixels = malloc(p.pitch * p.height);
	picture_draw(&p, 2, 123456);
	return fwrite(p.pixels, p.pitch, p.height, stdout) != p.height;
}
"""


def test_c_program_draws_the_same(tmp_path):
    """clients/pattern/draw.c and testbed/pattern.py are two sides of one formula."""
    (tmp_path / "main.c").write_text(DRAW)
    include = tmp_path / "include"
    include.mkdir()
    for header in ("drm_fourcc.h", "drm.h", "drm_mode.h"):
        shutil.copy(f"/usr/aarch64-linux-gnu/include/drm/{header}", include)
    subprocess.run(
        ["gcc", f"-I{include}", f"-I{PATTERN}", "-o", tmp_path / "draw", tmp_path / "main.c", PATTERN / "draw.c"],
        check=True,
    )
    data = subprocess.run([tmp_path / "draw"], check=True, capture_output=True).stdout
    drawn = np.frombuffer(data, np.uint8).reshape(120, 333, 4)[:, :, 2::-1]
    assert (drawn == pattern.frame(333, 120, 2, 123456)).all()


def test_a_framebuffer_of_32_bits_a_pixel_is_read_as_red_green_blue():
    assert picture.of_xrgb8888(bytes([0x33, 0x22, 0x11, 0xFF, 0x66, 0x55, 0x44, 0x00])) == bytes.fromhex("112233445566")
