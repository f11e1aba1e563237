// SPDX-License-Identifier: GPL-2.0-only
/*
 * What gntdev's exported dma-bufs (IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS) give to a
 * device, to the CPU, and to whoever holds the gntdev file.
 *
 * Dom0 grants to itself, pages whose frames don't follow each other, so that what
 * a device would read can be looked at. Needs the module dmabuf_importer.
 */
#define _GNU_SOURCE

#include "gntdev_dmabuf_map.h"
#include "kselftest.h"
#include "dmabuf_test.h"

#include <sys/uio.h>
#include <sys/wait.h>

#define IMPORTER	"/dev/dmabuf-importer"

/* As enum dma_data_direction, + 1: the device reads and writes, reads, writes. */
#define BOTH		1
#define READS		2
#define WRITES		3

static const struct {
	const char *name;
	uint32_t flags;
} kinds[] = {
	{ "system memory", 0 },
	{ "write-combine", GNTDEV_DMA_FLAG_WC },
	{ "coherent", GNTDEV_DMA_FLAG_COHERENT },
};

static const size_t sizes[] = { 16, 300 };

struct setting {
	int gntdev;
	int fd;
	size_t pages;
	struct grants grants;
	/* Page of the dma-buf -> page of @grants. */
	size_t *order;
};

/* Says what went wrong, once, and remembers it. */
static bool failed;

#define EXPECT(condition, ...) do {					\
	if (!(condition)) {						\
		if (!failed)						\
			ksft_print_msg(__VA_ARGS__);			\
		failed = true;						\
	}								\
} while (0)

#define EXPECT_IS(value, expected, what) do {				\
	long v_ = (value), e_ = (expected);				\
									\
	EXPECT(v_ == e_, "%s: %ld, expected %ld\n", what, v_, e_);	\
} while (0)

/* Backwards, and every second page only: no two frames of the dma-buf follow each other. */
static void scatter(struct setting *s)
{
	size_t i;

	s->order = calloc(s->pages, sizeof(*s->order));
	for (i = 0; i < s->pages; i++)
		s->order[i] = 2 * (s->pages - 1 - i);
}

static uint32_t *granted(const struct setting *s, size_t page)
{
	return s->grants.mem + s->order[page] * WORDS;
}

/* The granter draws. */
static void draw(const struct setting *s, uint32_t seed)
{
	size_t p, w;

	for (p = 0; p < s->pages; p++)
		for (w = 0; w < WORDS; w++)
			granted(s, p)[w] = pattern(seed, p, w);
}

static int export(struct setting *s, uint32_t flags)
{
	struct ioctl_gntdev_dmabuf_exp_from_refs *op;
	size_t i;
	int ret;

	op = calloc(1, sizeof(*op) + s->pages * sizeof(op->refs[0]));
	op->flags = flags;
	op->count = s->pages;
	for (i = 0; i < s->pages; i++)
		op->refs[i] = s->grants.refs[s->order[i]];
	ret = ioctl(s->gntdev, IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS, op) ? -errno : 0;
	s->fd = ret ? -1 : (int)op->fd;
	free(op);

	return ret;
}

/* A dma-buf of @pages granted pages with THEIRS in them. */
static void start(struct setting *s, size_t pages, uint32_t flags)
{
	int ret;

	failed = false;
	*s = (struct setting) { .pages = pages, .fd = -1 };
	scatter(s);
	s->gntdev = open(GNTDEV, O_RDWR | O_CLOEXEC);
	if (s->gntdev < 0 || !grants_open(&s->grants, 0, 2 * pages, true))
		ksft_exit_fail_msg("grants: %s\n", strerror(errno));
	draw(s, THEIRS);
	ret = export(s, flags);
	if (ret)
		ksft_exit_fail_msg("EXP_FROM_REFS of %zu pages: %s\n", pages, strerror(-ret));
}

static void close_export(struct setting *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

static void stop(struct setting *s)
{
	close_export(s);
	close(s->gntdev);
	grants_close(&s->grants);
	free(s->order);
}

static int wait_released(const struct setting *s, int fd, uint32_t ms)
{
	struct ioctl_gntdev_dmabuf_exp_wait_released op = {
		.fd = fd,
		.wait_to_ms = ms,
	};

	return ioctl(s->gntdev, IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED, &op) ? -errno : 0;
}

/* The device. */

static int import(const struct setting *s, uint32_t direction, uint64_t *addresses,
		  struct dmabuf_importer_import *op)
{
	int device = open(IMPORTER, O_RDWR | O_CLOEXEC);

	if (device < 0)
		ksft_exit_fail_msg("%s: %s; is the module loaded?\n", IMPORTER, strerror(errno));

	*op = (struct dmabuf_importer_import) {
		.fd = s->fd,
		.direction = direction,
		.pages = addresses ? s->pages : 0,
		.addresses = (uintptr_t)addresses,
	};
	if (ioctl(device, DMABUF_IMPORTER_IMPORT, op)) {
		int error = errno;

		close(device);
		return -error;
	}

	return device;
}

/* Number of pages that the device reads as the granter has drawn them with @seed. */
static size_t device_sees(int device, size_t pages, uint32_t seed)
{
	uint32_t page[WORDS];
	size_t p, w, ok = 0;

	for (p = 0; p < pages; p++) {
		if (pread(device, page, PAGE, p * PAGE) != (ssize_t)PAGE)
			continue;
		for (w = 0; w < WORDS; w++)
			if (page[w] != pattern(seed, p, w))
				break;
		ok += w == WORDS;
	}

	return ok;
}

/* The machine address of a page of this process: Dom0 is mapped 1:1. */
static uint64_t machine_address(const void *mem)
{
	static int pagemap = -1;
	uint64_t entry = 0;

	if (pagemap < 0)
		pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pread(pagemap, &entry, sizeof(entry), (uintptr_t)mem / PAGE * sizeof(entry)) !=
	    sizeof(entry) || !(entry & ((1ULL << 55) - 1)))
		ksft_exit_fail_msg("pagemap: %s; run it as root\n", strerror(errno));

	return (entry & ((1ULL << 55) - 1)) * PAGE;
}

static void test_device(const char *name, size_t pages, uint32_t flags)
{
	struct dmabuf_importer_import op;
	uint64_t *addresses;
	struct setting s;
	size_t i, bounced = 0;
	int device;

	start(&s, pages, flags);
	addresses = calloc(pages, sizeof(*addresses));
	device = import(&s, BOTH, addresses, &op);
	EXPECT(device >= 0, "import: %s\n", strerror(-device));
	if (device >= 0) {
		for (i = 0; i < pages; i++)
			bounced += addresses[i] != machine_address(granted(&s, i));
		ksft_print_msg("%zu pages, %s: %u segments, %zu pages bounced\n", pages, name,
			       op.segments, bounced);
		EXPECT_IS(op.pages, pages, "pages mapped");
		EXPECT_IS(bounced, 0, "pages bounced");
		EXPECT_IS(device_sees(device, pages, THEIRS), pages, "pages that the device reads");
		draw(&s, REPLY);
		EXPECT_IS(device_sees(device, pages, REPLY), pages,
			  "pages that the device reads after the granter has written");
		close(device);
	}
	free(addresses);
	stop(&s);
	ksft_test_result(!failed, "a device reads the granter's pages: %zu pages, %s\n", pages, name);
}

/* The CPU. */

static void test_mmap(const char *name, size_t pages, uint32_t flags)
{
	struct setting s;
	uint32_t *mem;
	size_t p, w, ok = 0;

	start(&s, pages, flags);
	mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0);
	EXPECT(mem != MAP_FAILED, "mmap: %s\n", strerror(errno));
	if (mem != MAP_FAILED) {
		EXPECT_IS(matching(mem, 0, pages, THEIRS), pages, "pages read by the CPU");
		draw(&s, REPLY);
		EXPECT_IS(matching(mem, 0, pages, REPLY), pages,
			  "pages read after the granter has written");
		fill(mem, pages, OURS);
		for (p = 0; p < pages; p++) {
			for (w = 0; w < WORDS; w++)
				if (granted(&s, p)[w] != pattern(OURS, p, w))
					break;
			ok += w == WORDS;
		}
		EXPECT_IS(ok, pages, "pages that the granter reads");
		munmap(mem, pages * PAGE);
	}
	stop(&s);
	ksft_test_result(!failed, "mmap() shows the granter's pages: %zu pages, %s\n", pages, name);
}

static int mmap_errno(const struct setting *s, size_t pages, int flags, size_t first)
{
	void *mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, s->fd, first * PAGE);

	if (mem == MAP_FAILED)
		return -errno;
	munmap(mem, pages * PAGE);
	return 0;
}

static void test_mmap_bounds(const char *name, uint32_t flags)
{
	struct setting s;
	uint32_t *mem;

	start(&s, 16, flags);
	mem = mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, s.fd, 5 * PAGE);
	EXPECT(mem != MAP_FAILED, "mmap of a part: %s\n", strerror(errno));
	if (mem != MAP_FAILED) {
		EXPECT_IS(mem[0], pattern(THEIRS, 5, 0), "first word of the part");
		EXPECT_IS(mem[3 * WORDS - 1], pattern(THEIRS, 7, WORDS - 1), "last word of the part");
		munmap(mem, 3 * PAGE);
	}
	EXPECT_IS(mmap_errno(&s, 1, MAP_SHARED, 15), 0, "the last page");
	EXPECT_IS(mmap_errno(&s, 2, MAP_SHARED, 15), -EINVAL, "beyond the end");
	EXPECT_IS(mmap_errno(&s, 1, MAP_SHARED, 16), -EINVAL, "after the end");
	EXPECT_IS(mmap_errno(&s, 16, MAP_PRIVATE, 0), -EINVAL, "a private mapping");
	stop(&s);
	ksft_test_result(!failed, "mmap() of parts, beyond the end, private: %s\n", name);
}

/* Nobody can hold a page for longer than the mapping lasts: the granter gets it back. */
static void test_no_references(void)
{
	struct setting s;
	struct iovec iov;
	int pipes[2];
	ssize_t ret;
	uint32_t *mem;

	start(&s, 16, 0);
	mem = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0);
	EXPECT(mem != MAP_FAILED, "mmap: %s\n", strerror(errno));
	if (mem != MAP_FAILED && !pipe(pipes)) {
		iov = (struct iovec) { .iov_base = mem, .iov_len = PAGE };
		ret = vmsplice(pipes[1], &iov, 1, 0);
		EXPECT_IS(ret < 0 ? -errno : ret, -EFAULT, "vmsplice() of a page");
		close(pipes[0]);
		close(pipes[1]);
		munmap(mem, 16 * PAGE);
	}
	stop(&s);
	ksft_test_result(!failed, "pages of a mapping can't be held\n");
}

/* The mapping keeps the dma-buf, in this process and in a child; the last one ends it. */
static void test_lifetime(const char *name, uint32_t flags)
{
	struct setting s;
	int status = -1, fd, ready[2], end[2];
	uint32_t *mem;
	pid_t child;
	char byte;

	start(&s, 16, flags);
	fd = s.fd;
	mem = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0);
	EXPECT(mem != MAP_FAILED, "mmap: %s\n", strerror(errno));
	if (mem != MAP_FAILED && !pipe(ready) && !pipe(end)) {
		close_export(&s);
		EXPECT_IS(wait_released(&s, fd, 1), -ETIMEDOUT, "closed but mapped");
		EXPECT_IS(matching(mem, 0, 16, THEIRS), 16, "pages read after close()");

		child = fork();
		if (!child) {
			bool ok = write(ready[1], "r", 1) == 1 && read(end[0], &byte, 1) == 1;

			_exit(!ok || matching(mem, 0, 16, REPLY) != 16);
		}
		EXPECT(read(ready[0], &byte, 1) == 1, "the child doesn't run\n");
		munmap(mem, 16 * PAGE);
		EXPECT_IS(wait_released(&s, fd, 1), -ETIMEDOUT, "mapped by the child");
		draw(&s, REPLY);
		EXPECT(write(end[1], "e", 1) == 1, "the child doesn't listen\n");
		waitpid(child, &status, 0);
		EXPECT_IS(status, 0, "status of the child, which reads the pages");
		status = wait_released(&s, fd, DEADLINE_MS);
		EXPECT(!status || status == -ENOENT, "unmapped: %s\n", strerror(-status));
		close(ready[0]);
		close(ready[1]);
		close(end[0]);
		close(end[1]);
	}
	stop(&s);
	ksft_test_result(!failed, "a mapping keeps the dma-buf until its end: %s\n", name);
}

/* Sync. */

static void sync_cpu(const struct setting *s, uint64_t flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	EXPECT(!ioctl(s->fd, DMA_BUF_IOCTL_SYNC, &sync), "DMA_BUF_IOCTL_SYNC: %s\n",
	       strerror(errno));
}

static void expect_syncs(int device, const char *what, uint32_t for_cpu, uint32_t for_device,
			 uint32_t direction)
{
	struct dmabuf_importer_syncs got;

	EXPECT(!ioctl(device, DMABUF_IMPORTER_SYNCS, &got), "syncs: %s\n", strerror(errno));
	EXPECT(got.for_cpu == for_cpu && got.for_device == for_device,
	       "%s: %u syncs for the CPU and %u for the device, expected %u and %u\n", what,
	       got.for_cpu, got.for_device, for_cpu, for_device);
	if (for_cpu || for_device) {
		EXPECT_IS(got.direction, direction, what);
		EXPECT_IS(got.segments, 16, what);
	}
}

static void test_sync(const char *name, uint32_t direction)
{
	static const struct {
		const char *what;
		uint64_t flags;
		uint32_t for_cpu;
		uint32_t for_device;
	} steps[] = {
		{ "start of reading", DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ, 1, 0 },
		{ "end of reading", DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ, 0, 0 },
		{ "start of writing", DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE, 0, 0 },
		{ "end of writing", DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE, 0, 1 },
		{ "start of both", DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW, 1, 0 },
		{ "end of both", DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW, 0, 1 },
	};
	struct dmabuf_importer_import op;
	struct setting s;
	int devices[2];
	size_t i;

	start(&s, 16, 0);
	devices[0] = import(&s, direction, NULL, &op);
	devices[1] = import(&s, direction, NULL, &op);
	EXPECT(devices[0] >= 0 && devices[1] >= 0, "import: %s\n", strerror(-devices[0]));
	for (i = 0; !failed && i < sizeof(steps) / sizeof(steps[0]); i++) {
		sync_cpu(&s, steps[i].flags);
		expect_syncs(devices[0], steps[i].what, steps[i].for_cpu, steps[i].for_device,
			     direction);
		expect_syncs(devices[1], steps[i].what, steps[i].for_cpu, steps[i].for_device,
			     direction);
	}
	close(devices[0]);
	sync_cpu(&s, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
	expect_syncs(devices[1], "end of writing, one device left", 0, 1, direction);
	EXPECT_IS(device_sees(devices[1], 16, THEIRS), 16, "pages that the device reads afterwards");
	close(devices[1]);
	sync_cpu(&s, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	stop(&s);
	ksft_test_result(!failed, "sync reaches each mapped device: %s\n", name);
}

/* The file. */

/* The dma-buf's grants aren't to be had by way of the file, whose first offset is 0. */
static void test_file_has_no_map(void)
{
	struct ioctl_gntdev_unmap_grant_ref op = { .index = 0, .count = 16 };
	struct dmabuf_importer_import import_op;
	struct setting s;
	uint32_t *mem;
	int device;

	start(&s, 16, 0);
	device = import(&s, BOTH, NULL, &import_op);
	mem = mmap(NULL, 16 * PAGE, PROT_READ, MAP_SHARED, s.gntdev, 0);
	EXPECT(mem == MAP_FAILED, "mmap() of gntdev gives the pages of the dma-buf\n");
	if (mem != MAP_FAILED)
		munmap(mem, 16 * PAGE);
	EXPECT_IS(ioctl(s.gntdev, IOCTL_GNTDEV_UNMAP_GRANT_REF, &op) ? -errno : 0, -ENOENT,
		  "IOCTL_GNTDEV_UNMAP_GRANT_REF");
	if (failed)
		/* What follows would end the kernel. */
		ksft_exit_fail_msg("the grants of a dma-buf that is in use were unmapped\n");
	EXPECT_IS(device_sees(device, 16, THEIRS), 16, "pages that the device reads");
	close(device);
	stop(&s);
	ksft_test_result(!failed, "the file has no offset for a dma-buf's grants\n");
}

int main(void)
{
	size_t k, n;

	ksft_print_header();
	ksft_set_plan(6 + 6 + 3 + 3 + 1 + 3 + 1);
	grants_raise_limit();

	for (k = 0; k < 3; k++)
		for (n = 0; n < 2; n++)
			test_device(kinds[k].name, sizes[n], kinds[k].flags);
	for (k = 0; k < 3; k++)
		for (n = 0; n < 2; n++)
			test_mmap(kinds[k].name, sizes[n], kinds[k].flags);
	for (k = 0; k < 3; k++)
		test_mmap_bounds(kinds[k].name, kinds[k].flags);
	for (k = 0; k < 3; k++)
		test_lifetime(kinds[k].name, kinds[k].flags);
	test_no_references();
	test_sync("it reads and writes", BOTH);
	test_sync("it reads", READS);
	test_sync("it writes", WRITES);
	test_file_has_no_map();

	ksft_finished();
}
