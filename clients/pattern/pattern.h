/* SPDX-License-Identifier: MIT */
/* The test-pattern program: known frames on the screens of a KMS device. */
#ifndef XEN_DMABUF_PATTERN_H
#define XEN_DMABUF_PATTERN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <xf86drmMode.h>

#include "picture.h"

#define MAX_SCREENS 4
#define BUFFERS 2

struct buffer {
	struct picture picture;
	uint64_t size;		/* bytes */
	uint32_t handle;
	uint32_t framebuffer;
};

struct screen {
	uint32_t connector;
	uint32_t crtc;
	uint8_t stream;
	drmModeModeInfo mode;
	struct buffer buffers[BUFFERS];
	unsigned int front;	/* index of the buffer on the screen */
	uint32_t frame;		/* number of the frame on the screen */
	uint64_t flips;		/* page flips answered by the backend */
	uint64_t wanted;	/* page flips still to be made; UINT64_MAX: for ever */
	bool pending;		/* a page flip is under way */
	int error;		/* errno of the last refused page flip or other request, 0 if none */
};

struct screens {
	int fd;
	unsigned int count;
	struct screen screen[MAX_SCREENS];
};

/* screens.c; functions return 0 or a negative errno */
int screens_open(struct screens *screens, const char *device, uint32_t fourcc, unsigned int first_stream);
void screens_close(struct screens *screens);
int screens_flip(struct screens *screens);
int screens_events(struct screens *screens);
int screens_dirty(struct screens *screens);
int screens_dpms(struct screens *screens, unsigned int level);
int screens_set(struct screens *screens);
bool screens_idle(const struct screens *screens);
uint32_t find_crtc(int fd, const drmModeRes *resources, const drmModeConnector *connector, uint32_t used);
uint32_t crtc_bit(const drmModeRes *resources, uint32_t crtc);
int buffer_create(int fd, struct buffer *buffer, uint32_t width, uint32_t height, uint32_t fourcc);
void buffer_destroy(int fd, struct buffer *buffer);

/* habits.c: what other KMS programs do, one line of JSON a step; returns an exit status */
int habit_run(const char *device, uint8_t stream, const char *name);
void habit_list(FILE *target);

/* grab.c: a text line "width height pitch fourcc", then the pixels of a CRTC's framebuffer */
int grab(const char *device, unsigned int index, FILE *target);

/* control.c */
int control_listen(const char *path);
int control_send(const char *path, const char *command);
void control_serve(struct screens *screens, int client, FILE **waiting);
void control_report(const struct screens *screens, FILE *stream);

#endif
