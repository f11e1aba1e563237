// SPDX-License-Identifier: MIT
/*
 * The init of a DomU that only flips: two pictures of one colour on each screen, drawn once.
 *
 * It takes commands on the console, a line each, and answers each with a line:
 *
 *   flip N PERIOD   N page flips on each screen, PERIOD microseconds from one to the next,
 *                   0: each as soon as the last one is answered
 *
 *   flip: ready SCREENS
 *   flip: done FLIPS NANOSECONDS MEAN MEDIAN P95 MAX
 *   flip: failed WHAT ERRNO
 *
 * FLIPS are those of all screens, NANOSECONDS passed from the first request to the last event, the others are
 * nanoseconds from the PAGE_FLIP request to its event as the program gets it.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <drm/drm.h>
#include <drm/drm_fourcc.h>

#define CARD		"/dev/dri/card0"
#define CONSOLE		"/dev/hvc0"
#define SCREENS		4
#define BUFFERS		2
#define ENCODERS	8
#define MODES		16
#define WAIT_SECONDS	60
#define LATENCIES	(1 << 20)

struct screen {
	uint32_t connector;
	uint32_t crtc;
	struct drm_mode_modeinfo mode;
	uint32_t framebuffers[BUFFERS];
	unsigned int front;
	bool pending;
	uint64_t asked;		/* ns */
	uint64_t next;		/* ns: not before */
	uint32_t wanted;
};

static const uint32_t colours[BUFFERS] = { 0xff2060a0, 0xffa06020 };
static struct screen screens[SCREENS];
static unsigned int count;
static int card = -1;
static FILE *console, *commands;
static uint32_t latencies[LATENCIES];
static size_t measured;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void fail(const char *what)
{
	fprintf(console, "flip: failed %s %d\n", what, errno);
	for (;;)
		pause();	/* init must not end */
}

static void demand(unsigned long request, void *argument, const char *what)
{
	int status;

	do
		status = ioctl(card, request, argument);
	while (status < 0 && errno == EINTR);
	if (status < 0)
		fail(what);
}

static void open_console(void)
{
	struct termios raw;
	int fd;

	mount("dev", "/dev", "devtmpfs", 0, NULL);
	fd = open(CONSOLE, O_RDWR | O_NOCTTY);
	if (fd < 0 || tcgetattr(fd, &raw))
		exit(1);
	cfmakeraw(&raw);
	tcsetattr(fd, TCSANOW, &raw);
	console = fdopen(fd, "w");
	commands = fdopen(dup(fd), "r");
	if (!console || !commands)
		exit(1);
	setvbuf(console, NULL, _IOLBF, BUFSIZ);
}

/* The card comes when the backend has connected. */
static void open_card(void)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
	uint64_t end = now() + WAIT_SECONDS * 1000000000ULL;

	while ((card = open(CARD, O_RDWR | O_CLOEXEC)) < 0) {
		if (now() > end)
			fail(CARD);
		nanosleep(&pause, NULL);
	}
}

static void make_buffer(struct screen *screen, unsigned int number)
{
	struct drm_mode_create_dumb dumb = {
		.width = screen->mode.hdisplay, .height = screen->mode.vdisplay, .bpp = 32,
	};
	struct drm_mode_map_dumb map = { 0 };
	struct drm_mode_fb_cmd2 framebuffer = {
		.width = screen->mode.hdisplay, .height = screen->mode.vdisplay, .pixel_format = DRM_FORMAT_XRGB8888,
	};
	uint32_t *pixels;

	demand(DRM_IOCTL_MODE_CREATE_DUMB, &dumb, "CREATE_DUMB");
	map.handle = dumb.handle;
	demand(DRM_IOCTL_MODE_MAP_DUMB, &map, "MAP_DUMB");
	pixels = mmap(NULL, dumb.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, map.offset);
	if (pixels == MAP_FAILED)
		fail("mmap");
	for (uint64_t i = 0; i < dumb.size / sizeof(*pixels); i++)
		pixels[i] = colours[number];
	munmap(pixels, dumb.size);
	framebuffer.handles[0] = dumb.handle;
	framebuffer.pitches[0] = dumb.pitch;
	demand(DRM_IOCTL_MODE_ADDFB2, &framebuffer, "ADDFB2");
	screen->framebuffers[number] = framebuffer.fb_id;
}

/* A CRTC that one of these encoders can have and no earlier screen has; 0: none. */
static uint32_t free_crtc(const uint32_t *encoders, uint32_t encoder_count, const uint32_t *crtcs, uint32_t crtc_count,
			  uint32_t *used)
{
	for (uint32_t e = 0; e < encoder_count; e++) {
		struct drm_mode_get_encoder encoder = { .encoder_id = encoders[e] };

		demand(DRM_IOCTL_MODE_GETENCODER, &encoder, "GETENCODER");
		for (uint32_t c = 0; c < crtc_count; c++)
			if (encoder.possible_crtcs & ~*used & 1u << c) {
				*used |= 1u << c;
				return crtcs[c];
			}
	}
	return 0;
}

static void show(struct screen *screen)
{
	struct drm_mode_crtc crtc = {
		.crtc_id = screen->crtc,
		.fb_id = screen->framebuffers[screen->front],
		.set_connectors_ptr = (uintptr_t)&screen->connector,
		.count_connectors = 1,
		.mode_valid = 1,
		.mode = screen->mode,
	};

	demand(DRM_IOCTL_MODE_SETCRTC, &crtc, "SETCRTC");
}

static void open_screens(void)
{
	uint32_t connectors[SCREENS], crtcs[SCREENS], used = 0;
	struct drm_mode_card_res resources = {
		.connector_id_ptr = (uintptr_t)connectors, .count_connectors = SCREENS,
		.crtc_id_ptr = (uintptr_t)crtcs, .count_crtcs = SCREENS,
	};

	demand(DRM_IOCTL_MODE_GETRESOURCES, &resources, "GETRESOURCES");
	if (resources.count_connectors > SCREENS || resources.count_crtcs > SCREENS) {
		errno = E2BIG;
		fail("GETRESOURCES");
	}
	for (uint32_t i = 0; i < resources.count_connectors; i++) {
		struct drm_mode_modeinfo modes[MODES];
		uint32_t encoders[ENCODERS];
		struct drm_mode_get_connector connector = {
			.connector_id = connectors[i],
			.modes_ptr = (uintptr_t)modes, .count_modes = MODES,
			.encoders_ptr = (uintptr_t)encoders, .count_encoders = ENCODERS,
		};
		/* only who asks for no modes has the kernel look which there are */
		struct drm_mode_get_connector probe = { .connector_id = connectors[i] };
		struct screen *screen = &screens[count];

		demand(DRM_IOCTL_MODE_GETCONNECTOR, &probe, "GETCONNECTOR");
		demand(DRM_IOCTL_MODE_GETCONNECTOR, &connector, "GETCONNECTOR");
		if (!connector.count_modes || connector.count_modes > MODES || connector.count_encoders > ENCODERS)
			continue;
		screen->connector = connectors[i];
		screen->mode = modes[0];
		screen->crtc = free_crtc(encoders, connector.count_encoders, crtcs, resources.count_crtcs, &used);
		if (!screen->crtc)
			continue;
		for (unsigned int b = 0; b < BUFFERS; b++)
			make_buffer(screen, b);
		show(screen);
		count++;
	}
	if (!count) {
		errno = ENODEV;
		fail("connectors");
	}
}

static void request(struct screen *screen, uint64_t period)
{
	struct drm_mode_crtc_page_flip flip = {
		.crtc_id = screen->crtc,
		.fb_id = screen->framebuffers[!screen->front],
		.flags = DRM_MODE_PAGE_FLIP_EVENT,
		.user_data = (uintptr_t)screen,
	};

	screen->asked = now();
	screen->next = (screen->next ? screen->next : screen->asked) + period;
	screen->pending = true;
	demand(DRM_IOCTL_MODE_PAGE_FLIP, &flip, "PAGE_FLIP");
}

static void answered(void)
{
	char events[1024];
	ssize_t size = read(card, events, sizeof(events));
	uint64_t time = now();

	if (size < 0)
		fail("read");
	for (ssize_t at = 0; at < size;) {
		struct drm_event_vblank *event = (void *)(events + at);

		at += event->base.length;
		if (event->base.type == DRM_EVENT_FLIP_COMPLETE) {
			struct screen *screen = (void *)(uintptr_t)event->user_data;

			if (measured < LATENCIES)
				latencies[measured++] = time - screen->asked;
			screen->front = !screen->front;
			screen->pending = false;
			screen->wanted--;
		}
	}
}

/* Ask for what is due. Returns whether anything is still to do; *due: when the next one may be asked for. */
static bool request_due(uint64_t period, uint64_t *due)
{
	uint64_t time = now();
	bool busy = false;

	*due = UINT64_MAX;
	for (unsigned int s = 0; s < count; s++) {
		struct screen *screen = &screens[s];

		if (!screen->wanted)
			continue;
		busy = true;
		if (screen->pending)
			continue;
		if (screen->next <= time)
			request(screen, period);
		else if (screen->next < *due)
			*due = screen->next;
	}
	return busy;
}

static uint64_t flip(uint32_t wanted, uint64_t period)
{
	uint64_t start = now(), due;

	measured = 0;
	for (unsigned int s = 0; s < count; s++) {
		screens[s].wanted = wanted;
		screens[s].next = 0;
	}
	while (request_due(period, &due)) {
		struct pollfd fd = { .fd = card, .events = POLLIN };
		uint64_t time = now(), rest = due > time ? due - time : 0;
		struct timespec timeout = { .tv_sec = rest / 1000000000, .tv_nsec = rest % 1000000000 };

		if (ppoll(&fd, 1, due == UINT64_MAX ? NULL : &timeout, NULL) < 0)
			fail("ppoll");
		if (fd.revents & POLLIN)
			answered();
		else if (fd.revents)
			fail("poll");
	}
	return now() - start;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void report(uint64_t passed)
{
	uint64_t sum = 0;

	qsort(latencies, measured, sizeof(*latencies), by_value);
	for (size_t i = 0; i < measured; i++)
		sum += latencies[i];
	if (!measured)
		fprintf(console, "flip: done 0 0 0 0 0 0\n");
	else
		fprintf(console, "flip: done %zu %llu %llu %u %u %u\n", measured, (unsigned long long)passed,
			(unsigned long long)(sum / measured), latencies[measured / 2], latencies[measured * 95 / 100],
			latencies[measured - 1]);
}

int main(void)
{
	char line[80];

	open_console();
	open_card();
	open_screens();
	fprintf(console, "flip: ready %u\n", count);
	while (fgets(line, sizeof(line), commands)) {
		unsigned int wanted, period;

		if (sscanf(line, "flip %u %u", &wanted, &period) == 2)
			report(flip(wanted, period * 1000ULL));
	}
	fail("console");
}
