/* SPDX-License-Identifier: MIT */
/*
 * What the habits share: the screens of a card as they were found, a picture's life, and the report of
 * a step. A call that has to hold ends the program by need(); one that a driver may refuse goes through
 * may(), which notes it.
 */
#ifndef XEN_DMABUF_KIT_H
#define XEN_DMABUF_KIT_H

#include <xf86drm.h>
#include <xf86drmMode.h>

#include "pattern.h"

#define REFUSED_MAX 16

struct head {
	uint32_t connector;
	uint32_t crtc;
	uint32_t plane;
	drmModeModeInfo mode;
	/* what it has to show: a frame, from x, y on */
	struct picture shown;	/* without pixels: black */
	uint32_t frame;
	uint32_t x, y;
	int events;		/* page flips answered */
	bool pending;
};

struct kit {
	const char *habit;
	const char *device;
	int fd;
	uint8_t stream;
	unsigned int count;
	struct head head[MAX_SCREENS];
	char refused[REFUSED_MAX][64];
	unsigned int refusals;
	long slowest;		/* milliseconds that the slowest page flip took */
};

void kit_open(struct kit *kit, const char *device);
void need(const struct kit *kit, int error, const char *what);
bool may(struct kit *kit, int error, const char *what);

struct buffer buffer_of(const struct kit *kit, uint32_t width, uint32_t height, uint32_t fourcc);
struct buffer screen_buffer(const struct kit *kit);
void draw(const struct kit *kit, struct head *head, const struct buffer *buffer, uint32_t frame);
void shows(struct head *head, const struct buffer *buffer, uint32_t frame, uint32_t x, uint32_t y);
void black(struct head *head);

int set_crtc(const struct kit *kit, const struct head *head, uint32_t framebuffer, uint32_t x, uint32_t y);
void flip_begin(const struct kit *kit, struct head *head, uint32_t framebuffer);
void flip_end(struct kit *kit, struct head *head);
void flip(struct kit *kit, struct head *head, const struct buffer *buffer, uint32_t frame);
uint32_t property(const struct kit *kit, uint32_t object, uint32_t type, const char *name);
bool connected(const struct kit *kit, const struct head *head);
int set_dpms(const struct kit *kit, const struct head *head, int value);
int commit(const struct kit *kit, uint32_t flags, unsigned int count, const uint64_t (*values)[3], void *data);

/* A line with what each screen has to show now; step() goes on when told, end() returns to end. */
void step(struct kit *kit);
void end(struct kit *kit);

#endif
