// SPDX-License-Identifier: MIT
/* KMS: one double-buffered full-screen picture for each connected connector. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <drm_fourcc.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

#include "pattern.h"

void buffer_destroy(int fd, struct buffer *buffer)
{
	if (buffer->framebuffer)
		drmModeRmFB(fd, buffer->framebuffer);
	if (buffer->picture.pixels)
		munmap(buffer->picture.pixels, buffer->size);
	if (buffer->handle)
		drmModeDestroyDumbBuffer(fd, buffer->handle);
	memset(buffer, 0, sizeof(*buffer));
}

int buffer_create(int fd, struct buffer *buffer, uint32_t width, uint32_t height, uint32_t fourcc)
{
	struct picture *picture = &buffer->picture;
	uint32_t bits = 8 * picture_pixel_size(fourcc);
	uint32_t handles[4] = { 0 }, pitches[4] = { 0 }, offsets[4] = { 0 };
	uint64_t offset;
	void *pixels;

	if (drmModeCreateDumbBuffer(fd, width, height, bits, 0, &buffer->handle, &picture->pitch, &buffer->size))
		return -errno;
	if (drmModeMapDumbBuffer(fd, buffer->handle, &offset))
		return -errno;
	pixels = mmap(NULL, buffer->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
	if (pixels == MAP_FAILED)
		return -errno;
	picture->pixels = pixels;
	picture->width = width;
	picture->height = height;
	picture->fourcc = fourcc;

	handles[0] = buffer->handle;
	pitches[0] = picture->pitch;
	if (drmModeAddFB2(fd, width, height, fourcc, handles, pitches, offsets, &buffer->framebuffer, 0))
		return -errno;
	return 0;
}

uint32_t find_crtc(int fd, const drmModeRes *resources, const drmModeConnector *connector, uint32_t used)
{
	for (int i = 0; i < connector->count_encoders; i++) {
		drmModeEncoder *encoder = drmModeGetEncoder(fd, connector->encoders[i]);
		uint32_t possible = encoder ? encoder->possible_crtcs & ~used : 0;

		drmModeFreeEncoder(encoder);
		for (int c = 0; c < resources->count_crtcs; c++)
			if (possible & 1u << c)
				return resources->crtcs[c];
	}
	return 0;
}

uint32_t crtc_bit(const drmModeRes *resources, uint32_t crtc)
{
	for (int c = 0; c < resources->count_crtcs; c++)
		if (resources->crtcs[c] == crtc)
			return 1u << c;
	return 0;
}

static int screen_set(int fd, struct screen *screen)
{
	uint32_t framebuffer = screen->buffers[screen->front].framebuffer;

	if (drmModeSetCrtc(fd, screen->crtc, framebuffer, 0, 0, &screen->connector, 1, &screen->mode))
		return -errno;
	return 0;
}

static int screen_start(int fd, struct screen *screen, const drmModeConnector *connector, uint32_t fourcc)
{
	drmModeModeInfo mode = connector->modes[0];

	for (unsigned int i = 0; i < BUFFERS; i++) {
		int error = buffer_create(fd, &screen->buffers[i], mode.hdisplay, mode.vdisplay, fourcc);

		if (error)
			return error;
	}
	picture_draw(&screen->buffers[0].picture, screen->stream, 0);
	screen->mode = mode;
	return screen_set(fd, screen);
}

static int add_screen(struct screens *screens, const drmModeRes *resources, uint32_t id, uint32_t fourcc,
		      unsigned int first_stream, uint32_t *used)
{
	struct screen *screen = &screens->screen[screens->count];
	drmModeConnector *connector = drmModeGetConnector(screens->fd, id);
	int error = 0;

	if (connector && connector->connection == DRM_MODE_CONNECTED && connector->count_modes &&
	    screens->count < MAX_SCREENS) {
		screen->connector = id;
		screen->crtc = find_crtc(screens->fd, resources, connector, *used);
		screen->stream = first_stream + screens->count;
		if (screen->crtc) {
			*used |= crtc_bit(resources, screen->crtc);
			screens->count++;
			error = screen_start(screens->fd, screen, connector, fourcc);
		}
	}
	drmModeFreeConnector(connector);
	return error;
}

int screens_open(struct screens *screens, const char *device, uint32_t fourcc, unsigned int first_stream)
{
	drmModeRes *resources;
	uint32_t used = 0;
	int error = 0;

	memset(screens, 0, sizeof(*screens));
	screens->fd = open(device, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (screens->fd < 0)
		return -errno;
	resources = drmModeGetResources(screens->fd);
	if (!resources) {
		error = -errno;
		close(screens->fd);
		return error;
	}
	for (int i = 0; i < resources->count_connectors && !error; i++)
		error = add_screen(screens, resources, resources->connectors[i], fourcc, first_stream, &used);
	drmModeFreeResources(resources);
	if (!error && !screens->count)
		error = -ENODEV;
	if (error)
		screens_close(screens);
	return error;
}

void screens_close(struct screens *screens)
{
	for (unsigned int s = 0; s < screens->count; s++)
		for (unsigned int i = 0; i < BUFFERS; i++)
			buffer_destroy(screens->fd, &screens->screen[s].buffers[i]);
	close(screens->fd);
	screens->count = 0;
}

static void flip_done(int fd, unsigned int sequence, unsigned int seconds, unsigned int microseconds, void *data)
{
	struct screen *screen = data;

	(void)fd;
	(void)sequence;
	(void)seconds;
	(void)microseconds;
	screen->pending = false;
	screen->front = (screen->front + 1) % BUFFERS;
	screen->frame++;
	screen->flips++;
	if (screen->wanted && screen->wanted != UINT64_MAX)
		screen->wanted--;
}

/* Draw and queue the next frame of each screen that wants one and has none under way. */
int screens_flip(struct screens *screens)
{
	for (unsigned int s = 0; s < screens->count; s++) {
		struct screen *screen = &screens->screen[s];
		struct buffer *next = &screen->buffers[(screen->front + 1) % BUFFERS];

		if (screen->pending || !screen->wanted)
			continue;
		picture_draw(&next->picture, screen->stream, screen->frame + 1);
		if (drmModePageFlip(screens->fd, screen->crtc, next->framebuffer, DRM_MODE_PAGE_FLIP_EVENT,
				    screen)) {
			screen->error = errno;
			screen->wanted = 0;
			return -screen->error;
		}
		screen->pending = true;
	}
	return 0;
}

int screens_events(struct screens *screens)
{
	drmEventContext context = {
		.version = 2,
		.page_flip_handler = flip_done,
	};

	return drmHandleEvent(screens->fd, &context) ? -errno : 0;
}

/* Report what was drawn into the visible buffer, without a flip. */
int screens_dirty(struct screens *screens)
{
	int error = 0;

	for (unsigned int s = 0; s < screens->count && !error; s++) {
		struct screen *screen = &screens->screen[s];
		struct buffer *buffer = &screen->buffers[screen->front];
		drmModeClip clip = { .x2 = buffer->picture.width, .y2 = buffer->picture.height };

		if (drmModeDirtyFB(screens->fd, buffer->framebuffer, &clip, 1))
			error = -errno;
		screen->error = -error;
	}
	return error;
}

static uint32_t find_property(int fd, uint32_t connector, const char *name)
{
	drmModeObjectProperties *all = drmModeObjectGetProperties(fd, connector, DRM_MODE_OBJECT_CONNECTOR);
	uint32_t id = 0;

	for (uint32_t i = 0; all && i < all->count_props && !id; i++) {
		drmModePropertyRes *property = drmModeGetProperty(fd, all->props[i]);

		if (property && !strcmp(property->name, name))
			id = property->prop_id;
		drmModeFreeProperty(property);
	}
	drmModeFreeObjectProperties(all);
	return id;
}

/* Switch all screens off (DRM_MODE_DPMS_OFF) or on, with what they show kept. */
int screens_dpms(struct screens *screens, unsigned int level)
{
	int error = 0;

	for (unsigned int s = 0; s < screens->count && !error; s++) {
		struct screen *screen = &screens->screen[s];
		uint32_t property = find_property(screens->fd, screen->connector, "DPMS");

		if (drmModeConnectorSetProperty(screens->fd, screen->connector, property, level))
			error = -errno;
		screen->error = -error;
	}
	return error;
}

/* Set the mode of all screens again, with what they show. */
int screens_set(struct screens *screens)
{
	int error = 0;

	for (unsigned int s = 0; s < screens->count && !error; s++) {
		error = screen_set(screens->fd, &screens->screen[s]);
		screens->screen[s].error = -error;
	}
	return error;
}

bool screens_idle(const struct screens *screens)
{
	for (unsigned int s = 0; s < screens->count; s++)
		if (screens->screen[s].pending || screens->screen[s].wanted)
			return false;
	return true;
}
