// SPDX-License-Identifier: MIT
/*
 * A Wayland client of Dom0 itself that does what the backend does for a DomU's flips: what it waits for is what a
 * flip can't be faster than.
 *
 *   local SOCKET WIDTH HEIGHT FRAMES shm|dumb
 *
 * shm: memory of its own; dumb: dma-bufs of /dev/dri/card0. It prints a line:
 *
 *   local: done FRAMES NANOSECONDS MEAN MEDIAN P95 MAX
 *
 * the last four in nanoseconds from before the commit to the frame callback as it was read. It writes Wayland's
 * messages itself: a static program needs nothing of Dom0.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <drm/drm.h>
#include <drm/drm_fourcc.h>

#define CARD		"/dev/dri/card0"
#define BUFFERS		2
#define WARM_UP		10
#define MAX_FRAMES	100000
#define MAX_MESSAGE	4096
#define SHM_XRGB8888	1

/* Objects by number; the protocol has the client number them without gaps, in the order of their making. */
enum object {
	DISPLAY = 1, REGISTRY, GREETING, COMPOSITOR, SHM, WM_BASE, DMABUF, SURFACE, XDG_SURFACE, TOPLEVEL,
	BUFFER,			/* of each its maker (a pool or params) and itself */
	CALLBACK = BUFFER + 2 * BUFFERS,
};

#define MAKER(number)	(BUFFER + 2 * (number))
#define PICTURE(number)	(MAKER(number) + 1)

enum { DISPLAY_SYNC, DISPLAY_GET_REGISTRY };
enum { REGISTRY_BIND };
enum { COMPOSITOR_CREATE_SURFACE };
enum { SHM_CREATE_POOL };
enum { POOL_CREATE_BUFFER };
enum { DMABUF_CREATE_PARAMS = 1 };
enum { PARAMS_ADD = 1, PARAMS_CREATE_IMMED = 3 };
enum { SURFACE_ATTACH = 1, SURFACE_FRAME = 3, SURFACE_COMMIT = 6, SURFACE_DAMAGE_BUFFER = 9 };
enum { WM_BASE_GET_XDG_SURFACE = 2, WM_BASE_PONG };
enum { XDG_SURFACE_GET_TOPLEVEL = 1, XDG_SURFACE_ACK_CONFIGURE = 4 };

struct wanted {
	enum object object;
	const char *interface;
	uint32_t version;
	uint32_t name;		/* the registry's, 0: not there */
};

static struct wanted globals[] = {
	{ COMPOSITOR, "wl_compositor", 4, 0 },
	{ SHM, "wl_shm", 1, 0 },
	{ WM_BASE, "xdg_wm_base", 1, 0 },
	{ DMABUF, "zwp_linux_dmabuf_v1", 3, 0 },
};

#define GLOBALS	(sizeof(globals) / sizeof(globals[0]))

static int server;
static uint32_t out[1024];
static size_t out_words;
static _Alignas(uint32_t) char in[MAX_MESSAGE * 2];
static size_t in_bytes;
static bool greeted, configured, drawn;
static uint32_t latencies[MAX_FRAMES];

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void fail(const char *what)
{
	fprintf(stderr, "local: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void put(uint32_t object, uint32_t opcode, const uint32_t *words, size_t number)
{
	out[out_words++] = object;
	out[out_words++] = (uint32_t)(8 + 4 * number) << 16 | opcode;
	memcpy(out + out_words, words, 4 * number);
	out_words += number;
}

#define PUT(object, opcode, ...) \
	put(object, opcode, (const uint32_t[]){ __VA_ARGS__ }, sizeof((uint32_t[]){ __VA_ARGS__ }) / 4)

/* Send what was put; fd: goes with it, -1: none. */
static void flush(int fd)
{
	struct iovec data = { .iov_base = out, .iov_len = 4 * out_words };
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *head;

		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(head), &fd, sizeof(int));
	}
	if (sendmsg(server, &message, MSG_NOSIGNAL) != (ssize_t)data.iov_len)
		fail("sendmsg");
	out_words = 0;
}

static void bind_global(const struct wanted *wanted)
{
	uint32_t words[16] = { wanted->name, strlen(wanted->interface) + 1 };
	size_t text = (words[1] + 3) / 4;

	strcpy((char *)(words + 2), wanted->interface);
	words[2 + text] = wanted->version;
	words[3 + text] = wanted->object;
	put(REGISTRY, REGISTRY_BIND, words, 4 + text);
}

static void heard(uint32_t object, uint32_t opcode, const uint32_t *words)
{
	if (object == DISPLAY && opcode == 0) {
		fprintf(stderr, "local: the compositor says: object %u, error %u, %s\n", words[0], words[1],
			(const char *)(words + 3));
		exit(1);
	} else if (object == REGISTRY && opcode == 0) {
		for (size_t i = 0; i < GLOBALS; i++)
			if (!strcmp((const char *)(words + 2), globals[i].interface))
				globals[i].name = words[0];
	} else if (object == GREETING) {
		greeted = true;
	} else if (object == WM_BASE) {
		PUT(WM_BASE, WM_BASE_PONG, words[0]);
		flush(-1);
	} else if (object == XDG_SURFACE) {
		PUT(XDG_SURFACE, XDG_SURFACE_ACK_CONFIGURE, words[0]);
		configured = true;
	} else if (object == CALLBACK) {
		drawn = true;
	}
}

/* Read messages until *done. */
static void wait_for(const bool *done)
{
	while (!*done) {
		ssize_t size = read(server, in + in_bytes, sizeof(in) - in_bytes);
		size_t at = 0;

		if (size <= 0)
			fail("read");
		in_bytes += size;
		while (in_bytes - at >= 8) {
			uint32_t head[2];

			memcpy(head, in + at, sizeof(head));
			if (head[1] >> 16 < 8 || head[1] >> 16 > MAX_MESSAGE) {
				errno = EPROTO;
				fail("read");
			}
			if (in_bytes - at < head[1] >> 16)
				break;
			heard(head[0], head[1] & 0xffff, (const uint32_t *)(in + at + 8));
			at += head[1] >> 16;
		}
		in_bytes -= at;
		memmove(in, in + at, in_bytes);
	}
}

static void connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof(address)))
		fail(path);
	PUT(DISPLAY, DISPLAY_GET_REGISTRY, REGISTRY);
	PUT(DISPLAY, DISPLAY_SYNC, GREETING);
	flush(-1);
	wait_for(&greeted);
}

static void bind_globals(bool dumb)
{
	for (size_t i = 0; i < GLOBALS; i++) {
		if (globals[i].object == DMABUF && !dumb)
			/* the number has to be used: a second registry */
			PUT(DISPLAY, DISPLAY_GET_REGISTRY, DMABUF);
		else if (globals[i].name)
			bind_global(&globals[i]);
		else {
			errno = EPROTONOSUPPORT;
			fail(globals[i].interface);
		}
	}
}

static void open_window(void)
{
	PUT(COMPOSITOR, COMPOSITOR_CREATE_SURFACE, SURFACE);
	PUT(WM_BASE, WM_BASE_GET_XDG_SURFACE, XDG_SURFACE, SURFACE);
	PUT(XDG_SURFACE, XDG_SURFACE_GET_TOPLEVEL, TOPLEVEL);
	put(SURFACE, SURFACE_COMMIT, NULL, 0);
	flush(-1);
	wait_for(&configured);
}

static void paint(uint32_t *pixels, size_t bytes, unsigned int number)
{
	for (size_t i = 0; i < bytes / 4; i++)
		pixels[i] = number ? 0xffa06020 : 0xff2060a0;
}

static void make_shm(unsigned int number, uint32_t width, uint32_t height)
{
	size_t bytes = 4UL * width * height;
	int fd = memfd_create("local", MFD_CLOEXEC);
	uint32_t *pixels;

	if (fd < 0 || ftruncate(fd, bytes))
		fail("memfd");
	pixels = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (pixels == MAP_FAILED)
		fail("mmap");
	paint(pixels, bytes, number);
	PUT(SHM, SHM_CREATE_POOL, MAKER(number), bytes);
	flush(fd);
	PUT(MAKER(number), POOL_CREATE_BUFFER, PICTURE(number), 0, width, height, 4 * width, SHM_XRGB8888);
	flush(-1);
	close(fd);
}

static void make_dumb(unsigned int number, uint32_t width, uint32_t height)
{
	static int card = -1;
	struct drm_mode_create_dumb dumb = { .width = width, .height = height, .bpp = 32 };
	struct drm_prime_handle prime = { .flags = DRM_CLOEXEC | DRM_RDWR };
	struct drm_mode_map_dumb map = { 0 };
	uint32_t *pixels;

	if (card < 0)
		card = open(CARD, O_RDWR | O_CLOEXEC);
	if (card < 0 || ioctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &dumb))
		fail(CARD);
	map.handle = prime.handle = dumb.handle;
	if (ioctl(card, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime) || ioctl(card, DRM_IOCTL_MODE_MAP_DUMB, &map))
		fail("dumb buffer");
	pixels = mmap(NULL, dumb.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, map.offset);
	if (pixels == MAP_FAILED)
		fail("mmap");
	paint(pixels, dumb.size, number);
	PUT(DMABUF, DMABUF_CREATE_PARAMS, MAKER(number));
	flush(-1);
	PUT(MAKER(number), PARAMS_ADD, 0, 0, dumb.pitch, DRM_FORMAT_MOD_LINEAR >> 32,
	    DRM_FORMAT_MOD_LINEAR & UINT32_MAX);
	flush(prime.fd);
	PUT(MAKER(number), PARAMS_CREATE_IMMED, PICTURE(number), width, height, DRM_FORMAT_XRGB8888, 0);
	flush(-1);
	close(prime.fd);
}

static uint32_t frame(unsigned int number, uint32_t width, uint32_t height)
{
	uint64_t start = now();

	PUT(SURFACE, SURFACE_ATTACH, PICTURE(number), 0, 0);
	PUT(SURFACE, SURFACE_FRAME, CALLBACK);
	PUT(SURFACE, SURFACE_DAMAGE_BUFFER, 0, 0, width, height);
	put(SURFACE, SURFACE_COMMIT, NULL, 0);
	flush(-1);
	drawn = false;
	wait_for(&drawn);
	return now() - start;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void measure(uint32_t frames, uint32_t width, uint32_t height)
{
	uint64_t sum = 0, start, passed;

	for (uint32_t i = 0; i < WARM_UP; i++)
		frame(i % BUFFERS, width, height);
	start = now();
	for (uint32_t i = 0; i < frames; i++)
		sum += latencies[i] = frame((WARM_UP + i) % BUFFERS, width, height);
	passed = now() - start;
	qsort(latencies, frames, sizeof(*latencies), by_value);
	printf("local: done %u %llu %llu %u %u %u\n", frames, (unsigned long long)passed,
	       (unsigned long long)(sum / frames), latencies[frames / 2], latencies[frames * 95UL / 100],
	       latencies[frames - 1]);
}

int main(int argc, char **argv)
{
	uint32_t width, height, frames;
	bool dumb;

	if (argc != 6) {
		fprintf(stderr, "local: say SOCKET WIDTH HEIGHT FRAMES shm|dumb\n");
		return 2;
	}
	width = strtoul(argv[2], NULL, 10);
	height = strtoul(argv[3], NULL, 10);
	frames = strtoul(argv[4], NULL, 10);
	dumb = !strcmp(argv[5], "dumb");
	if (!width || !height || width > 8192 || height > 8192 || !frames || frames > MAX_FRAMES) {
		fprintf(stderr, "local: WIDTH and HEIGHT are 1 to 8192, FRAMES 1 to %u\n", MAX_FRAMES);
		return 2;
	}
	connect_to(argv[1]);
	bind_globals(dumb);
	open_window();
	for (unsigned int i = 0; i < BUFFERS; i++) {
		if (dumb)
			make_dumb(i, width, height);
		else
			make_shm(i, width, height);
	}
	measure(frames, width, height);
	return 0;
}
