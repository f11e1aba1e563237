// SPDX-License-Identifier: MIT
/*
 * What other KMS programs do, each as a habit with a name. A habit says by step() and end() what the
 * screens have to show; whoever reads that looks at Dom0's screen, then sends SIGUSR1 to go on and
 * SIGTERM to end.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <drm_fourcc.h>
#include <linux/dma-heap.h>

#include "kit.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MANY 64

static struct buffer shown_by_crtc(struct kit *kit, struct head *head, uint32_t frame)
{
	struct buffer buffer = screen_buffer(kit);

	draw(kit, head, &buffer, frame);
	need(kit, set_crtc(kit, head, buffer.framebuffer, 0, 0), "SetCrtc");
	return buffer;
}

static void plain(struct kit *kit)
{
	struct buffer second = screen_buffer(kit);

	shown_by_crtc(kit, &kit->head[0], 0);
	flip(kit, &kit->head[0], &second, 1);
	end(kit);
}

static void both(struct kit *kit)
{
	for (unsigned int i = 0; i < kit->count; i++)
		shown_by_crtc(kit, &kit->head[i], i);
	end(kit);
}

/* One buffer, never flipped: the pixels change under it. */
static void draws(struct kit *kit)
{
	struct buffer buffer = shown_by_crtc(kit, &kit->head[0], 0);

	step(kit);
	draw(kit, &kit->head[0], &buffer, 1);
	step(kit);
	draw(kit, &kit->head[0], &buffer, 2);
	end(kit);
}

static void dpms(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer first = shown_by_crtc(kit, head, 0), second = screen_buffer(kit);

	need(kit, set_dpms(kit, head, DRM_MODE_DPMS_OFF), "DPMS off");
	black(head);
	step(kit);
	need(kit, set_dpms(kit, head, DRM_MODE_DPMS_ON), "DPMS on");
	shows(head, &first, 0, 0, 0);
	step(kit);
	flip(kit, head, &second, 1);
	end(kit);
}

static void ends_off(struct kit *kit)
{
	struct head *head = &kit->head[0];

	shown_by_crtc(kit, head, 0);
	need(kit, set_dpms(kit, head, DRM_MODE_DPMS_OFF), "DPMS off");
	black(head);
	end(kit);
}

static void active(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer first = shown_by_crtc(kit, head, 0), second = screen_buffer(kit);
	uint64_t row[1][3] = { { head->crtc, property(kit, head->crtc, DRM_MODE_OBJECT_CRTC, "ACTIVE"), 0 } };

	need(kit, commit(kit, DRM_MODE_ATOMIC_ALLOW_MODESET, 1, row, NULL), "ACTIVE 0");
	black(head);
	step(kit);
	row[0][2] = 1;
	need(kit, commit(kit, DRM_MODE_ATOMIC_ALLOW_MODESET, 1, row, NULL), "ACTIVE 1");
	shows(head, &first, 0, 0, 0);
	step(kit);
	flip(kit, head, &second, 1);
	end(kit);
}

static void off_amid_flip(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer first = shown_by_crtc(kit, head, 0), second = screen_buffer(kit);

	draw(kit, head, &second, 1);
	flip_begin(kit, head, second.framebuffer);
	need(kit, set_dpms(kit, head, DRM_MODE_DPMS_OFF), "DPMS off");
	flip_end(kit, head);
	black(head);
	step(kit);
	need(kit, set_dpms(kit, head, DRM_MODE_DPMS_ON), "DPMS on");
	shows(head, &second, 1, 0, 0);
	step(kit);
	flip(kit, head, &first, 2);
	end(kit);
}

static void one_off(struct kit *kit)
{
	struct head *left = &kit->head[0], *right = &kit->head[1];
	struct buffer first = shown_by_crtc(kit, left, 0), second = screen_buffer(kit);
	struct buffer other = shown_by_crtc(kit, right, 7);

	need(kit, set_dpms(kit, right, DRM_MODE_DPMS_OFF), "DPMS off");
	black(right);
	flip(kit, left, &second, 1);
	flip(kit, left, &first, 2);
	step(kit);
	need(kit, set_dpms(kit, right, DRM_MODE_DPMS_ON), "DPMS on");
	shows(right, &other, 7, 0, 0);
	flip(kit, left, &second, 3);
	end(kit);
}

static struct buffer twice_as_large(struct kit *kit, struct head *head, uint32_t x, uint32_t y)
{
	struct buffer buffer = buffer_of(kit, 2 * head->mode.hdisplay, 2 * head->mode.vdisplay, DRM_FORMAT_XRGB8888);

	draw(kit, head, &buffer, 0);
	shows(head, &buffer, 0, x, y);
	need(kit, set_crtc(kit, head, buffer.framebuffer, x, y), "SetCrtc");
	return buffer;
}

static void larger(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer large = twice_as_large(kit, head, 0, 0), exact = screen_buffer(kit);

	step(kit);
	flip(kit, head, &exact, 1);
	step(kit);
	flip(kit, head, &large, 2);
	end(kit);
}

static void panned(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer exact = screen_buffer(kit);

	twice_as_large(kit, head, head->mode.hdisplay, head->mode.vdisplay - 10);
	step(kit);
	draw(kit, head, &exact, 1);
	need(kit, set_crtc(kit, head, exact.framebuffer, 0, 0), "SetCrtc");
	end(kit);
}

static void smaller(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer small = buffer_of(kit, head->mode.hdisplay / 2, head->mode.vdisplay / 2, DRM_FORMAT_XRGB8888);

	shown_by_crtc(kit, head, 0);
	may(kit, set_crtc(kit, head, small.framebuffer, 0, 0), "SetCrtc");
	may(kit, drmModePageFlip(kit->fd, head->crtc, small.framebuffer, 0, NULL), "page flip");
	end(kit);
}

static void framebuffer_removed(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer first = shown_by_crtc(kit, head, 0), second = screen_buffer(kit), third = screen_buffer(kit);

	need(kit, drmModeRmFB(kit->fd, first.framebuffer), "RmFB");
	black(head);
	step(kit);
	may(kit, drmModePageFlip(kit->fd, head->crtc, second.framebuffer, 0, NULL), "page flip of an idle CRTC");
	draw(kit, head, &second, 1);
	need(kit, set_crtc(kit, head, second.framebuffer, 0, 0), "SetCrtc");
	flip(kit, head, &third, 2);
	need(kit, drmModeRmFB(kit->fd, second.framebuffer), "RmFB of what was replaced");
	end(kit);
}

static void handle_closed(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer first = shown_by_crtc(kit, head, 0), second = screen_buffer(kit);

	need(kit, drmModeDestroyDumbBuffer(kit->fd, first.handle), "DestroyDumb");
	step(kit);
	flip(kit, head, &second, 1);
	end(kit);
}

static void tidy(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer first = shown_by_crtc(kit, head, 0), second = screen_buffer(kit);

	flip(kit, head, &second, 1);
	step(kit);
	need(kit, set_crtc(kit, head, 0, 0, 0), "SetCrtc of nothing");
	buffer_destroy(kit->fd, &first);
	buffer_destroy(kit->fd, &second);
	black(head);
	end(kit);
}

static void many_buffers(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer buffers[MANY];

	for (unsigned int i = 0; i < MANY; i++)
		buffers[i] = buffer_of(kit, head->mode.hdisplay, head->mode.vdisplay, DRM_FORMAT_XRGB8888);
	draw(kit, head, &buffers[0], 0);
	need(kit, set_crtc(kit, head, buffers[0].framebuffer, 0, 0), "SetCrtc");
	for (unsigned int i = 1; i < MANY; i++) {
		shows(head, &buffers[i], i, 0, 0);
		if (i + 1 == MANY)
			draw(kit, head, &buffers[i], i);
		flip_begin(kit, head, buffers[i].framebuffer);
		flip_end(kit, head);
	}
	end(kit);
}

/* Two screens with one framebuffer, flipped in turn. */
static void mirrored(struct kit *kit)
{
	struct head *left = &kit->head[0], *right = &kit->head[1];
	struct buffer first = shown_by_crtc(kit, left, 0), second = screen_buffer(kit);

	need(kit, set_crtc(kit, right, first.framebuffer, 0, 0), "SetCrtc");
	for (uint32_t frame = 1; frame < 7; frame++) {
		const struct buffer *next = frame % 2 ? &second : &first;

		flip(kit, left, next, frame);
		flip_begin(kit, right, next->framebuffer);
		flip_end(kit, right);
		shows(right, next, frame, 0, 0);
	}
	end(kit);
}

static void lease(struct kit *kit)
{
	struct head *head = &kit->head[0];
	uint32_t objects[] = { head->connector, head->crtc, head->plane }, lessee;
	struct kit other = *kit;
	struct buffer buffers[2];

	other.fd = drmModeCreateLease(kit->fd, objects, COUNT(objects), O_CLOEXEC, &lessee);
	need(kit, other.fd, "lease");
	need(kit, drmSetClientCap(other.fd, DRM_CLIENT_CAP_UNIVERSAL_PLANES, 1), "universal planes of a lessee");
	for (unsigned int i = 0; i < COUNT(buffers); i++)
		buffers[i] = screen_buffer(&other);
	draw(kit, head, &buffers[0], 0);
	need(kit, set_crtc(&other, head, buffers[0].framebuffer, 0, 0), "a lessee's SetCrtc");
	step(kit);
	flip(&other, head, &buffers[1], 1);
	kit->slowest = other.slowest;
	step(kit);
	/* a mapping would keep the file open, and the lease */
	for (unsigned int i = 0; i < COUNT(buffers); i++)
		munmap(buffers[i].picture.pixels, buffers[i].size);
	close(other.fd);
	black(head);	/* the kernel removes the lessee's framebuffers */
	end(kit);
}

/* A framebuffer of a dma-buf, drawn through ``pixels``. */
static struct buffer imported(struct kit *kit, int dmabuf, uint8_t *pixels, uint32_t pitch)
{
	const drmModeModeInfo *mode = &kit->head[0].mode;
	struct buffer buffer = { .picture = {
		.pixels = pixels, .pitch = pitch, .fourcc = DRM_FORMAT_XRGB8888,
		.width = mode->hdisplay, .height = mode->vdisplay,
	} };
	uint32_t handles[4] = { 0 }, pitches[4] = { pitch }, offsets[4] = { 0 };

	need(kit, drmPrimeFDToHandle(kit->fd, dmabuf, &buffer.handle), "PRIME import");
	handles[0] = buffer.handle;
	need(kit, drmModeAddFB2(kit->fd, mode->hdisplay, mode->vdisplay, buffer.picture.fourcc, handles, pitches,
				offsets, &buffer.framebuffer, 0), "AddFB2 of an import");
	return buffer;
}

/* Drawn by one program, shown by another. */
static void prime_own(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct kit painter = { .habit = kit->habit };
	struct buffer drawn, shown;
	int dmabuf;

	kit_open(&painter, kit->device);
	drawn = screen_buffer(&painter);
	need(kit, drmPrimeHandleToFD(painter.fd, drawn.handle, DRM_CLOEXEC | DRM_RDWR, &dmabuf), "PRIME export");
	shown = imported(kit, dmabuf, drawn.picture.pixels, drawn.picture.pitch);
	draw(kit, head, &shown, 0);
	need(kit, set_crtc(kit, head, shown.framebuffer, 0, 0), "SetCrtc");
	close(dmabuf);
	close(painter.fd);
	end(kit);
}

static void prime_heap(struct kit *kit)
{
	struct head *head = &kit->head[0];
	uint32_t pitch = head->mode.hdisplay * 4;
	struct dma_heap_allocation_data memory = { .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
	struct buffer shown;
	uint8_t *pixels;

	shown_by_crtc(kit, head, 0);
	memory.len = (size_t)pitch * head->mode.vdisplay;
	if (may(kit, heap, "dma-heap")) {
		need(kit, ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &memory), "memory of a dma-heap");
		pixels = mmap(NULL, memory.len, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd, 0);
		need(kit, pixels == MAP_FAILED ? -1 : 0, "mmap of a dma-heap's memory");
		shown = imported(kit, memory.fd, pixels, pitch);
		flip(kit, head, &shown, 1);
	}
	end(kit);
}

static void of_format(struct kit *kit, uint32_t fourcc)
{
	struct head *head = &kit->head[0];
	struct buffer first = buffer_of(kit, head->mode.hdisplay, head->mode.vdisplay, fourcc);
	struct buffer second = buffer_of(kit, head->mode.hdisplay, head->mode.vdisplay, fourcc);

	draw(kit, head, &first, 0);
	need(kit, set_crtc(kit, head, first.framebuffer, 0, 0), "SetCrtc");
	flip(kit, head, &second, 1);
	end(kit);
}

static void rgb565(struct kit *kit)
{
	of_format(kit, DRM_FORMAT_RGB565);
}

static void rgb888(struct kit *kit)
{
	of_format(kit, DRM_FORMAT_RGB888);
}

static void argb8888(struct kit *kit)
{
	of_format(kit, DRM_FORMAT_ARGB8888);
}

static void formats_unknown(struct kit *kit)
{
	static const uint32_t formats[] = {
		DRM_FORMAT_XRGB2101010, DRM_FORMAT_XBGR8888, DRM_FORMAT_RGBX8888, DRM_FORMAT_NV12, DRM_FORMAT_C8,
	};
	struct buffer first = shown_by_crtc(kit, &kit->head[0], 0);
	uint32_t handles[4] = { first.handle, first.handle }, offsets[4] = { 0 }, framebuffer;
	uint32_t pitches[4] = { first.picture.pitch, first.picture.pitch };

	for (unsigned int i = 0; i < COUNT(formats); i++) {
		bool planes = formats[i] == DRM_FORMAT_NV12;
		uint32_t h[4] = { handles[0], planes ? handles[1] : 0 }, p[4] = { pitches[0], planes ? pitches[1] : 0 };
		char name[5] = { 0 };

		memcpy(name, &formats[i], 4);
		if (may(kit, drmModeAddFB2(kit->fd, 16, 16, formats[i], h, p, offsets, &framebuffer, 0), name))
			drmModeRmFB(kit->fd, framebuffer);
	}
	end(kit);
}

static void smaller_mode(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer first = shown_by_crtc(kit, head, 0), second = screen_buffer(kit);
	drmModeModeInfo native = head->mode;

	head->mode.hdisplay -= 64;
	head->mode.vdisplay -= 64;
	may(kit, set_crtc(kit, head, first.framebuffer, 0, 0), "SetCrtc of a smaller mode");
	head->mode = native;
	draw(kit, head, &second, 1);
	need(kit, set_crtc(kit, head, second.framebuffer, 0, 0), "SetCrtc");
	end(kit);
}

static void again_and_again(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer buffers[2] = { screen_buffer(kit), screen_buffer(kit) };

	for (uint32_t i = 0; i < 8; i++) {
		draw(kit, head, &buffers[i % 2], i);
		need(kit, set_crtc(kit, head, buffers[i % 2].framebuffer, 0, 0), "SetCrtc");
	}
	end(kit);
}

static bool told_to_end(void)
{
	sigset_t set;

	return !sigpending(&set) && sigismember(&set, SIGTERM);
}

/* A buffer of its own for each frame, until it is told to end. */
static void churns(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer last = shown_by_crtc(kit, head, 0);

	for (uint32_t frame = 1; !told_to_end(); frame++) {
		struct buffer next = screen_buffer(kit);

		flip(kit, head, &next, frame);
		need(kit, connected(kit, head) ? 0 : -ENODEV, "connector");
		buffer_destroy(kit->fd, &last);
		last = next;
	}
	end(kit);
}

static void without_event(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer buffers[2] = { shown_by_crtc(kit, head, 0), screen_buffer(kit) };

	for (uint32_t i = 1; i < 5; i++) {
		const struct buffer *next = &buffers[i % 2];
		int result;

		draw(kit, head, next, i);
		/* EBUSY until the one before is done, and there is nothing to wait for that */
		do
			result = drmModePageFlip(kit->fd, head->crtc, next->framebuffer, 0, NULL);
		while (result && errno == EBUSY);
		need(kit, result, "page flip");
	}
	end(kit);
}

static void atomic(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer first = shown_by_crtc(kit, head, 0), second = screen_buffer(kit);
	uint64_t rows[][3] = {
		{ head->plane, property(kit, head->plane, DRM_MODE_OBJECT_PLANE, "FB_ID"), second.framebuffer },
		{ head->plane, property(kit, head->plane, DRM_MODE_OBJECT_PLANE, "SRC_W"), first.picture.width << 16 },
	};

	picture_draw(&second.picture, kit->stream, 1);
	need(kit, commit(kit, DRM_MODE_ATOMIC_TEST_ONLY, 2, rows, NULL), "TEST_ONLY");
	rows[1][2] /= 2;
	may(kit, commit(kit, DRM_MODE_ATOMIC_TEST_ONLY, 2, rows, NULL), "TEST_ONLY of a scaled plane");
	rows[1][2] *= 2;
	step(kit);
	shows(head, &second, 1, 0, 0);
	need(kit, commit(kit, DRM_MODE_PAGE_FLIP_EVENT | DRM_MODE_ATOMIC_NONBLOCK, 2, rows, head), "atomic flip");
	head->pending = true;
	flip_end(kit, head);
	end(kit);
}

/* SetPlane with a part of a larger framebuffer; the driver sends no part of a flip, so the first one. */
static void set_plane(struct kit *kit)
{
	struct head *head = &kit->head[0];
	uint32_t width = head->mode.hdisplay, height = head->mode.vdisplay;
	struct buffer large = buffer_of(kit, 2 * width, 2 * height, DRM_FORMAT_XRGB8888);

	shown_by_crtc(kit, head, 0);
	may(kit, drmModeSetPlane(kit->fd, head->plane, head->crtc, large.framebuffer, 0, 0, 0, width, height, 0, 0,
				 2 * width << 16, 2 * height << 16), "SetPlane that scales");
	may(kit, drmModeSetPlane(kit->fd, head->plane, head->crtc, large.framebuffer, 0, 16, 16, width - 32,
				 height - 32, 0, 0, (width - 32) << 16, (height - 32) << 16), "SetPlane of a part");
	draw(kit, head, &large, 1);
	need(kit, drmModeSetPlane(kit->fd, head->plane, head->crtc, large.framebuffer, 0, 0, 0, width, height, 0, 0,
				  width << 16, height << 16), "SetPlane");
	end(kit);
}

static void masters(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer first = shown_by_crtc(kit, head, 0);
	struct kit other = { .habit = kit->habit, .stream = kit->stream };
	struct buffer second;

	kit_open(&other, kit->device);
	may(kit, drmSetMaster(other.fd), "SetMaster while another is");
	need(kit, drmDropMaster(kit->fd), "DropMaster");
	need(kit, drmSetMaster(other.fd), "SetMaster");
	second = shown_by_crtc(&other, &other.head[0], 1);
	shows(head, &second, 1, 0, 0);
	step(kit);
	need(kit, drmDropMaster(other.fd), "DropMaster");
	need(kit, drmSetMaster(kit->fd), "SetMaster");
	flip(kit, head, &first, 2);
	close(other.fd);
	end(kit);
}

static void dirty(struct kit *kit)
{
	struct buffer first = shown_by_crtc(kit, &kit->head[0], 0);
	drmModeClip clip = { .x2 = 16, .y2 = 16 };

	draw(kit, &kit->head[0], &first, 1);
	may(kit, drmModeDirtyFB(kit->fd, first.framebuffer, &clip, 1), "DirtyFB");
	end(kit);
}

static void cursor(struct kit *kit)
{
	struct head *head = &kit->head[0];
	struct buffer arrow = buffer_of(kit, 64, 64, DRM_FORMAT_ARGB8888);

	shown_by_crtc(kit, head, 0);
	may(kit, drmModeSetCursor(kit->fd, head->crtc, arrow.handle, 64, 64), "SetCursor");
	may(kit, drmModeMoveCursor(kit->fd, head->crtc, 10, 10), "MoveCursor");
	end(kit);
}

static void gamma_tables(struct kit *kit)
{
	struct head *head = &kit->head[0];
	uint16_t table[256] = { 0 };

	shown_by_crtc(kit, head, 0);
	may(kit, drmModeCrtcSetGamma(kit->fd, head->crtc, 256, table, table, table), "SetGamma");
	may(kit, drmModeCrtcGetGamma(kit->fd, head->crtc, 256, table, table, table), "GetGamma");
	end(kit);
}

static void vblank(struct kit *kit)
{
	drmVBlank wait = { .request = { .type = DRM_VBLANK_RELATIVE, .sequence = 1 } };
	uint64_t sequence, nanoseconds;

	shown_by_crtc(kit, &kit->head[0], 0);
	may(kit, drmWaitVBlank(kit->fd, &wait), "WaitVBlank");
	may(kit, drmCrtcGetSequence(kit->fd, kit->head[0].crtc, &sequence, &nanoseconds), "CrtcGetSequence");
	end(kit);
}

static const struct habit {
	const char *name;
	void (*run)(struct kit *kit);
	unsigned int screens;
} habits[] = {
	{ "plain", plain, 1 },
	{ "both", both, 2 },
	{ "draws", draws, 1 },
	{ "dpms", dpms, 1 },
	{ "ends-off", ends_off, 1 },
	{ "active", active, 1 },
	{ "off-amid-flip", off_amid_flip, 1 },
	{ "one-off", one_off, 2 },
	{ "larger", larger, 1 },
	{ "panned", panned, 1 },
	{ "smaller", smaller, 1 },
	{ "framebuffer-removed", framebuffer_removed, 1 },
	{ "handle-closed", handle_closed, 1 },
	{ "tidy", tidy, 1 },
	{ "many-buffers", many_buffers, 1 },
	{ "mirrored", mirrored, 2 },
	{ "lease", lease, 1 },
	{ "prime-own", prime_own, 1 },
	{ "prime-heap", prime_heap, 1 },
	{ "rgb565", rgb565, 1 },
	{ "rgb888", rgb888, 1 },
	{ "argb8888", argb8888, 1 },
	{ "formats-unknown", formats_unknown, 1 },
	{ "smaller-mode", smaller_mode, 1 },
	{ "again-and-again", again_and_again, 1 },
	{ "churns", churns, 1 },
	{ "without-event", without_event, 1 },
	{ "atomic", atomic, 1 },
	{ "set-plane", set_plane, 1 },
	{ "masters", masters, 1 },
	{ "dirty", dirty, 1 },
	{ "cursor", cursor, 1 },
	{ "gamma", gamma_tables, 1 },
	{ "vblank", vblank, 1 },
};

void habit_list(FILE *target)
{
	for (unsigned int i = 0; i < COUNT(habits); i++)
		fprintf(target, "%s\n", habits[i].name);
}

int habit_run(const char *device, uint8_t stream, const char *name)
{
	struct kit kit = { .habit = name, .stream = stream };
	sigset_t set;

	for (unsigned int i = 0; i < COUNT(habits); i++) {
		if (strcmp(habits[i].name, name))
			continue;
		/* the two signals wait until they are asked for */
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		sigaddset(&set, SIGTERM);
		sigprocmask(SIG_BLOCK, &set, NULL);
		kit_open(&kit, device);
		need(&kit, kit.count < habits[i].screens ? -ENODEV : 0, "screens");
		habits[i].run(&kit);
		return 0;
	}
	return -ENOENT;
}
