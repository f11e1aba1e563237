// SPDX-License-Identifier: MIT
#include <string.h>

#include <drm_fourcc.h>

#include "picture.h"

#define CELLS 40
#define MAGIC 0xa5u
#define WHITE 0xffffffu

static uint32_t colour(uint32_t x, uint32_t y, uint32_t frame)
{
	uint32_t red = (x * 3 + frame * 5) & 0xff;
	uint32_t green = (y * 3 + frame * 7) & 0xff;
	uint32_t blue = ((x ^ y) + frame * 11) & 0xff;

	return red << 16 | green << 8 | blue;
}

uint32_t picture_pixel_size(uint32_t fourcc)
{
	switch (fourcc) {
	case DRM_FORMAT_RGB565:
		return 2;
	case DRM_FORMAT_RGB888:
		return 3;
	default:
		return 4;
	}
}

static uint32_t bytes_per_pixel(const struct picture *picture)
{
	return picture_pixel_size(picture->fourcc);
}

void picture_set(const struct picture *picture, uint32_t x, uint32_t y, uint32_t rgb)
{
	uint8_t *pixel = picture->pixels + (size_t)y * picture->pitch + x * bytes_per_pixel(picture);

	if (picture->fourcc == DRM_FORMAT_RGB565) {
		uint16_t value = (rgb >> 8 & 0xf800) | (rgb >> 5 & 0x07e0) | (rgb >> 3 & 0x001f);

		memcpy(pixel, &value, sizeof(value));
	} else if (picture->fourcc == DRM_FORMAT_RGB888) {
		pixel[0] = rgb;
		pixel[1] = rgb >> 8;
		pixel[2] = rgb >> 16;
	} else {
		uint32_t value = rgb | 0xff000000u;

		memcpy(pixel, &value, sizeof(value));
	}
}

uint32_t picture_get(const struct picture *picture, uint32_t x, uint32_t y)
{
	const uint8_t *pixel = picture->pixels + (size_t)y * picture->pitch + x * bytes_per_pixel(picture);

	if (picture->fourcc == DRM_FORMAT_RGB565) {
		uint16_t value;

		memcpy(&value, pixel, sizeof(value));
		return (value & 0xf800u) << 8 | (value & 0x07e0u) << 5 | (value & 0x001fu) << 3;
	}
	if (picture->fourcc == DRM_FORMAT_RGB888)
		return pixel[2] << 16 | pixel[1] << 8 | pixel[0];
	uint32_t value;

	memcpy(&value, pixel, sizeof(value));
	return value & WHITE;
}

/* Magic, stream number and frame number, most significant bit first, one cell a bit. */
static void draw_label(const struct picture *picture, uint32_t left, uint32_t top, uint32_t cell,
		       uint8_t stream, uint32_t frame)
{
	uint64_t bits = (uint64_t)MAGIC << 32 | (uint64_t)stream << 24 | (frame & 0xffffff);

	for (uint32_t i = 0; i < CELLS; i++) {
		uint32_t rgb = bits >> (CELLS - 1 - i) & 1 ? WHITE : 0;

		for (uint32_t y = 0; y < cell; y++)
			for (uint32_t x = 0; x < cell; x++)
				picture_set(picture, left + i * cell + x, top + y, rgb);
	}
}

void picture_draw(const struct picture *picture, uint8_t stream, uint32_t frame)
{
	uint32_t cell = picture->width / CELLS > 4 ? 4 : picture->width / CELLS;

	for (uint32_t y = 0; y < picture->height; y++)
		for (uint32_t x = 0; x < picture->width; x++)
			picture_set(picture, x, y, colour(x, y, frame));

	if (cell == 0 || picture->height < 2 * cell)
		return;
	/* Two corners: a window above this one rarely hides both. */
	draw_label(picture, 0, 0, cell, stream, frame);
	draw_label(picture, picture->width - CELLS * cell, picture->height - cell, cell, stream, frame);
}
