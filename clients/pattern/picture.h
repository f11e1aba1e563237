/* SPDX-License-Identifier: MIT */
/*
 * Known frames for tests: every pixel is a function of its position and the frame number, and the
 * stream and frame numbers are written into the picture as black and white cells, so that a
 * screenshot tells by itself which frame it shows. The reading side is
 * lib/oeqa/runtime/xen_dmabuf/picture.py. Nothing here needs libdrm's library or its development
 * files but the list of fourccs, so that a test on the host compiles it.
 */
#ifndef XEN_DMABUF_PICTURE_H
#define XEN_DMABUF_PICTURE_H

#include <stdint.h>

struct picture {
	uint8_t *pixels;
	uint32_t width;		/* pixels */
	uint32_t height;	/* pixels */
	uint32_t pitch;		/* bytes per line */
	uint32_t fourcc;	/* DRM_FORMAT_* */
};

void picture_draw(const struct picture *picture, uint8_t stream, uint32_t frame);
uint32_t picture_pixel_size(uint32_t fourcc);	/* bytes */
uint32_t picture_get(const struct picture *picture, uint32_t x, uint32_t y);
void picture_set(const struct picture *picture, uint32_t x, uint32_t y, uint32_t rgb);

#endif
