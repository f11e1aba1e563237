# SPDX-License-Identifier: MIT
"""Where pictures go: the arithmetic, with any numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xen_dmabuf.config import SCALES
from xen_dmabuf.worker import layout

SIDES = st.integers(1, 8192)
SIZES = st.tuples(SIDES, SIDES)


@pytest.mark.parametrize(
    ("content", "limit", "scale", "expected"),
    [
        ((640, 480), (0, 0), "down", (640, 480)),
        ((640, 480), (1920, 1080), "down", (640, 480)),
        ((640, 480), (1920, 1080), "fit", (1440, 1080)),
        ((1920, 1080), (640, 480), "down", (640, 360)),
        ((1920, 1080), (640, 480), "none", (1920, 1080)),
        ((8192, 1), (64, 64), "down", (64, 1)),
    ],
)
def test_fit(content, limit, scale, expected):
    assert layout.fit(content, limit, scale) == expected


@pytest.mark.parametrize(
    ("content", "wish", "must", "bounds", "scale", "expected"),
    [
        ((1920, 1080), (0, 0), False, (1280, 800), "down", (1280, 720)),  # fits the output, in proportion
        ((1920, 1080), (0, 0), False, (1280, 800), "none", (1920, 1080)),
        ((640, 480), (0, 0), False, (1280, 800), "fit", (640, 480)),
        ((640, 480), (640, 800), True, (1280, 800), "down", (640, 800)),  # tiled, maximised, fullscreen
        ((640, 480), (640, 800), False, (1280, 800), "down", (640, 480)),
        ((640, 480), (320, 320), False, (1280, 800), "down", (320, 240)),
        ((640, 480), (320, 320), False, (1280, 800), "stretch", (320, 320)),
    ],
)
def test_window(content, wish, must, bounds, scale, expected):
    assert layout.window(content, wish, must, bounds, scale) == expected


def test_a_picture_in_a_window_of_another_proportion_keeps_its_own():
    assert layout.place((640, 480), (640, 800), "down") == layout.Place(0, 160, 640, 480, (640, 480))
    assert layout.place((640, 480), (1280, 800), "fit") == layout.Place(107, 0, 1066, 800, (640, 480))
    assert layout.place((640, 480), (640, 800), "stretch") == layout.Place(0, 0, 640, 800, (640, 480))
    assert layout.place((640, 480), (320, 800), "none") == layout.Place(0, 160, 320, 480, (320, 480))


@given(SIZES, SIZES, st.sampled_from(SCALES))
def test_a_picture_never_leaves_its_window(content, area, scale):
    place = layout.place(content, area, scale)
    assert place.x >= 0 and place.y >= 0 and place.width >= 1 and place.height >= 1
    assert place.x + place.width <= area[0] and place.y + place.height <= area[1]
    assert 1 <= place.source[0] <= content[0] and 1 <= place.source[1] <= content[1]
    if scale != "none":
        assert place.source == content
    if scale == "none":
        assert place.source == (place.width, place.height)


@given(SIZES, SIZES, st.sampled_from(["down", "fit"]))
def test_proportion_is_kept(content, area, scale):
    place = layout.place(content, area, scale)
    assert abs(place.width * content[1] - place.height * content[0]) <= max(content)
