// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <drm_fourcc.h>

#include "kit.h"

#define FLIP_SECONDS 10

static void give_up(const struct kit *kit, const char *what, int error)
{
	printf("{\"habit\": \"%s\", \"error\": \"%s: %s\"}\n", kit->habit, what, strerror(-error));
	fflush(stdout);
	exit(1);
}

/* libdrm's functions return -1 and errno, or a negative errno. */
static int error_of(int result)
{
	return result == -1 ? -errno : result;
}

void need(const struct kit *kit, int result, const char *what)
{
	if (result < 0)
		give_up(kit, what, error_of(result));
}

bool may(struct kit *kit, int result, const char *what)
{
	if (result >= 0)
		return true;
	if (kit->refusals < REFUSED_MAX)
		snprintf(kit->refused[kit->refusals++], sizeof(kit->refused[0]), "%s: %s", what,
			 strerror(-error_of(result)));
	return false;
}

static uint32_t plane_of(const struct kit *kit, const drmModeRes *resources, uint32_t crtc)
{
	drmModePlaneRes *planes = drmModeGetPlaneResources(kit->fd);
	uint32_t found = 0;

	for (uint32_t i = 0; planes && i < planes->count_planes && !found; i++) {
		drmModePlane *plane = drmModeGetPlane(kit->fd, planes->planes[i]);

		for (int c = 0; plane && c < resources->count_crtcs; c++)
			if (resources->crtcs[c] == crtc && plane->possible_crtcs & 1u << c)
				found = plane->plane_id;
		drmModeFreePlane(plane);
	}
	drmModeFreePlaneResources(planes);
	return found;
}

void kit_open(struct kit *kit, const char *device)
{
	drmModeRes *resources;
	uint32_t used = 0;

	kit->device = device;
	kit->fd = open(device, O_RDWR | O_CLOEXEC);
	need(kit, kit->fd, "open");
	need(kit, drmSetClientCap(kit->fd, DRM_CLIENT_CAP_UNIVERSAL_PLANES, 1), "universal planes");
	need(kit, drmSetClientCap(kit->fd, DRM_CLIENT_CAP_ATOMIC, 1), "atomic");
	resources = drmModeGetResources(kit->fd);
	need(kit, resources ? 0 : -1, "resources");
	for (int i = 0; i < resources->count_connectors && kit->count < MAX_SCREENS; i++) {
		drmModeConnector *connector = drmModeGetConnector(kit->fd, resources->connectors[i]);
		struct head *head = &kit->head[kit->count];

		need(kit, connector && connector->count_modes ? 0 : -ENODEV, "mode of a connector");
		head->connector = connector->connector_id;
		head->mode = connector->modes[0];
		head->crtc = find_crtc(kit->fd, resources, connector, used);
		need(kit, head->crtc ? 0 : -ENODEV, "CRTC of a connector");
		head->plane = plane_of(kit, resources, head->crtc);
		used |= crtc_bit(resources, head->crtc);
		kit->count++;
		drmModeFreeConnector(connector);
	}
	drmModeFreeResources(resources);
}

struct buffer buffer_of(const struct kit *kit, uint32_t width, uint32_t height, uint32_t fourcc)
{
	struct buffer buffer = { 0 };

	need(kit, buffer_create(kit->fd, &buffer, width, height, fourcc), "buffer");
	return buffer;
}

struct buffer screen_buffer(const struct kit *kit)
{
	const drmModeModeInfo *mode = &kit->head[0].mode;

	return buffer_of(kit, mode->hdisplay, mode->vdisplay, DRM_FORMAT_XRGB8888);
}

void shows(struct head *head, const struct buffer *buffer, uint32_t frame, uint32_t x, uint32_t y)
{
	head->shown = buffer->picture;
	head->frame = frame;
	head->x = x;
	head->y = y;
}

void black(struct head *head)
{
	head->shown.pixels = NULL;
}

void draw(const struct kit *kit, struct head *head, const struct buffer *buffer, uint32_t frame)
{
	picture_draw(&buffer->picture, kit->stream, frame);
	shows(head, buffer, frame, 0, 0);
}

int set_crtc(const struct kit *kit, const struct head *head, uint32_t framebuffer, uint32_t x, uint32_t y)
{
	uint32_t connector = head->connector;
	drmModeModeInfo mode = head->mode;

	if (!framebuffer)
		return drmModeSetCrtc(kit->fd, head->crtc, 0, 0, 0, NULL, 0, NULL);
	return drmModeSetCrtc(kit->fd, head->crtc, framebuffer, x, y, &connector, 1, &mode);
}

static void flip_done(int fd, unsigned int sequence, unsigned int seconds, unsigned int microseconds, void *data)
{
	struct head *head = data;

	(void)fd;
	(void)sequence;
	(void)seconds;
	(void)microseconds;
	head->pending = false;
	head->events++;
}

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

void flip_begin(const struct kit *kit, struct head *head, uint32_t framebuffer)
{
	need(kit, drmModePageFlip(kit->fd, head->crtc, framebuffer, DRM_MODE_PAGE_FLIP_EVENT, head), "page flip");
	head->pending = true;
}

void flip_end(struct kit *kit, struct head *head)
{
	drmEventContext context = { .version = 2, .page_flip_handler = flip_done };
	long start = now();

	while (head->pending) {
		struct pollfd fds = { .fd = kit->fd, .events = POLLIN };

		if (poll(&fds, 1, FLIP_SECONDS * 1000) <= 0)
			give_up(kit, "event of a page flip", -ETIMEDOUT);
		need(kit, drmHandleEvent(kit->fd, &context), "events");
	}
	if (now() - start > kit->slowest)
		kit->slowest = now() - start;
}

void flip(struct kit *kit, struct head *head, const struct buffer *buffer, uint32_t frame)
{
	draw(kit, head, buffer, frame);
	flip_begin(kit, head, buffer->framebuffer);
	flip_end(kit, head);
}

uint32_t property(const struct kit *kit, uint32_t object, uint32_t type, const char *name)
{
	drmModeObjectProperties *properties = drmModeObjectGetProperties(kit->fd, object, type);
	uint32_t found = 0;

	for (uint32_t i = 0; properties && i < properties->count_props; i++) {
		drmModePropertyRes *one = drmModeGetProperty(kit->fd, properties->props[i]);

		if (one && !strcmp(one->name, name))
			found = one->prop_id;
		drmModeFreeProperty(one);
	}
	drmModeFreeObjectProperties(properties);
	need(kit, found ? 0 : -ENOENT, name);
	return found;
}

int set_dpms(const struct kit *kit, const struct head *head, int value)
{
	uint32_t dpms = property(kit, head->connector, DRM_MODE_OBJECT_CONNECTOR, "DPMS");

	return drmModeConnectorSetProperty(kit->fd, head->connector, dpms, value);
}

/* Rows of object, property, value. */
int commit(const struct kit *kit, uint32_t flags, unsigned int count, const uint64_t (*values)[3], void *data)
{
	drmModeAtomicReq *request = drmModeAtomicAlloc();
	int result;

	for (unsigned int i = 0; i < count; i++)
		drmModeAtomicAddProperty(request, values[i][0], values[i][1], values[i][2]);
	result = drmModeAtomicCommit(kit->fd, request, flags, data);
	if (result == -1)
		result = -errno;
	drmModeAtomicFree(request);
	return result;
}

bool connected(const struct kit *kit, const struct head *head)
{
	drmModeConnector *connector = drmModeGetConnector(kit->fd, head->connector);
	bool is = connector && connector->connection == DRM_MODE_CONNECTED && connector->count_modes;

	drmModeFreeConnector(connector);
	return is;
}

static void report(const struct kit *kit, bool more)
{
	printf("{\"habit\": \"%s\", \"more\": %s, \"slowest_ms\": %ld, \"refused\": [", kit->habit,
	       more ? "true" : "false", kit->slowest);
	for (unsigned int i = 0; i < kit->refusals; i++)
		printf("%s\"%s\"", i ? ", " : "", kit->refused[i]);
	printf("], \"screens\": [");
	for (unsigned int i = 0; i < kit->count; i++) {
		const struct head *head = &kit->head[i];
		const struct picture *shown = &head->shown;

		printf("%s{\"connected\": %s, \"events\": %d, \"size\": [%u, %u], \"shown\": ", i ? ", " : "",
		       connected(kit, head) ? "true" : "false", head->events, head->mode.hdisplay,
		       head->mode.vdisplay);
		if (shown->pixels)
			printf("{\"stream\": %u, \"frame\": %u, \"width\": %u, \"height\": %u, \"x\": %u, \"y\": %u, "
			       "\"fourcc\": \"%.4s\"}}",
			       kit->stream, head->frame, shown->width, shown->height, head->x, head->y,
			       (const char *)&shown->fourcc);
		else
			printf("null}");
	}
	printf("]}\n");
	fflush(stdout);
}

static int wait_for_signal(void)
{
	sigset_t set;
	int number;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	return sigwait(&set, &number) ? SIGTERM : number;
}

void step(struct kit *kit)
{
	report(kit, true);
	if (wait_for_signal() == SIGTERM)
		exit(0);
}

void end(struct kit *kit)
{
	report(kit, false);
	while (wait_for_signal() != SIGTERM)
		;
}
