// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long the ways to get at another domain's pages take, side by side.
 *
 * Dom0 grants the pages to itself, so one domain is enough. The ways take turns:
 * whatever else slows the machine down hits all of them. Prints a line for each
 * measurement: way, pages, round, nanoseconds to map, nanoseconds to let go. A
 * way that the machine hasn't the memory for has no line.
 */
#define _GNU_SOURCE

#include <getopt.h>
#include <time.h>

#include "gntdev_dmabuf_2023.h"


#define BALLOON	"/sys/devices/system/xen_memory/xen_memory0"

struct ways {
	int gntdev;
	const struct grants *grants;
	uint32_t pages;
};

struct times {
	uint64_t map;
	uint64_t release;
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void check(int ret, const char *what)
{
	if (!ret)
		return;
	errno = -ret;
	fail(what);
}

static unsigned long read_number(const char *path)
{
	FILE *file = fopen(path, "r");
	unsigned long number;

	if (!file || fscanf(file, "%lu", &number) != 1)
		fail(path);
	fclose(file);
	return number;
}

/* A word of the first and last page is enough to know that it is mapped. */
static void expect_theirs(const uint32_t *mem, uint32_t pages)
{
	size_t last = (pages - 1) * WORDS;

	if (mem[0] == pattern(THEIRS, 0, 0) &&
	    mem[last] == pattern(THEIRS, pages - 1, 0))
		return;
	fprintf(stderr, "these are not the granted pages\n");
	exit(1);
}

static void write_number(const char *path, unsigned long number)
{
	FILE *file = fopen(path, "w");

	if (!file || fprintf(file, "%lu", number) < 0 || fclose(file))
		fail(path);
}

/*
 * gntdev takes pages for EXP_FROM_REFS and mmap() from the balloon, which makes
 * room for them if it has none. It gets its memory back in the background some
 * time, maybe much later. Here it has to do so before the next measurement.
 */
static void settle(void)
{
	static const char current[] = BALLOON "/info/current_kb";
	static const char target[] = BALLOON "/target_kb";
	struct timespec pause = { .tv_nsec = 1000000 };
	unsigned long wanted = read_number(target);

	while (read_number(current) != wanted) {
		/* It only gets going when there is something new. */
		write_number(target, wanted - PAGE / 1024);
		write_number(target, wanted);
		nanosleep(&pause, NULL);
	}
}

/* The ioctls of the series, over a buffer that is there already. */
static struct times map_refs_to_buf(const struct ways *ways,
				    enum exporter exporter)
{
	struct map_args args = {
		.count = ways->pages,
		.refs = ways->grants->refs,
	};
	struct buffer buf;
	struct times t;
	uint64_t start;
	int memfd, fd;

	if (!buffer_open(&buf, exporter, ways->pages))
		fail(exporter_names[exporter]);
	/* Keeps the memory itself out of the measurement where that is possible. */
	memfd = dup(buf.memfd);
	fd = buf.fd;
	args.fd = fd;

	start = now();
	check(gntdev_map(ways->gntdev, &args), "MAP_REFS_TO_BUF");
	t.map = now() - start;

	expect_theirs(buf.mem, ways->pages);
	buffer_unmap(&buf);

	start = now();
	check(gntdev_release(ways->gntdev, fd), "MAP_RELEASE");
	buffer_close(&buf);
	check(gntdev_wait(ways->gntdev, fd, DEADLINE_MS), "MAP_WAIT_RELEASED");
	t.release = now() - start;

	close(memfd);
	return t;
}

static struct times map_udmabuf(const struct ways *ways)
{
	return map_refs_to_buf(ways, UDMABUF);
}

static struct times map_system_heap(const struct ways *ways)
{
	return map_refs_to_buf(ways, SYSTEM_HEAP);
}

/* A buffer alone, without a grant: what of the above is the exporter's. */
static struct times no_grants(const struct ways *ways)
{
	struct buffer buf;
	struct times t = { 0 };
	uint64_t start;
	int memfd;

	if (!buffer_open(&buf, UDMABUF, ways->pages))
		fail("udmabuf");
	memfd = dup(buf.memfd);
	buffer_unmap(&buf);

	start = now();
	buffer_close(&buf);
	t.release = now() - start;

	close(memfd);
	return t;
}

/* gntdev's own dma-buf, which other devices' drivers may refuse. */
static struct times export(const struct ways *ways, uint32_t flags)
{
	struct ioctl_gntdev_dmabuf_exp_wait_released wait = {
		.wait_to_ms = DEADLINE_MS,
	};
	struct ioctl_gntdev_dmabuf_exp_from_refs *op;
	struct times t;
	uint64_t start;

	op = calloc(1, sizeof(*op) + ways->pages * sizeof(op->refs[0]));
	op->flags = flags;
	op->count = ways->pages;
	memcpy(&op->refs[0], ways->grants->refs,
	       ways->pages * sizeof(op->refs[0]));

	start = now();
	if (ioctl(ways->gntdev, IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS, op)) {
		/* It must be contiguous then, and so much isn't there. */
		if (!flags || errno != ENOMEM)
			fail("EXP_FROM_REFS");
		free(op);
		return (struct times) { 0 };
	}
	t.map = now() - start;

	wait.fd = op->fd;
	start = now();
	close(op->fd);
	if (ioctl(ways->gntdev, IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED, &wait) &&
	    errno != ENOENT)
		fail("EXP_WAIT_RELEASED");
	t.release = now() - start;

	free(op);
	return t;
}

static struct times export_pages(const struct ways *ways)
{
	return export(ways, 0);
}

static struct times export_dma(const struct ways *ways)
{
	return export(ways, GNTDEV_DMA_FLAG_COHERENT);
}

/* The pages in the address space of the process. */
static struct times map_grant_ref(const struct ways *ways)
{
	struct ioctl_gntdev_unmap_grant_ref unmap = { .count = ways->pages };
	struct ioctl_gntdev_map_grant_ref *op;
	struct times t;
	uint64_t start;
	uint32_t *mem;
	uint32_t i;

	op = calloc(1, sizeof(*op) + ways->pages * sizeof(op->refs[0]));
	op->count = ways->pages;
	for (i = 0; i < ways->pages; i++)
		(&op->refs[0])[i].ref = ways->grants->refs[i];

	start = now();
	if (ioctl(ways->gntdev, IOCTL_GNTDEV_MAP_GRANT_REF, op))
		fail("MAP_GRANT_REF");
	mem = mmap(NULL, ways->pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		   ways->gntdev, op->index);
	if (mem == MAP_FAILED)
		fail("mmap of gntdev");
	t.map = now() - start;

	expect_theirs(mem, ways->pages);

	unmap.index = op->index;
	start = now();
	if (munmap(mem, ways->pages * PAGE) ||
	    ioctl(ways->gntdev, IOCTL_GNTDEV_UNMAP_GRANT_REF, &unmap))
		fail("UNMAP_GRANT_REF");
	t.release = now() - start;

	free(op);
	return t;
}

static const struct {
	const char *name;
	struct times (*measure)(const struct ways *ways);
} all_ways[] = {
	{ "map-udmabuf", map_udmabuf },
	{ "map-system-heap", map_system_heap },
	{ "no-grants", no_grants },
	{ "export", export_pages },
	{ "export-dma", export_dma },
	{ "mmap", map_grant_ref },
};

#define NR_WAYS		(sizeof(all_ways) / sizeof(all_ways[0]))

static void measure(struct ways *ways, unsigned int rounds, const char *only)
{
	bool small = ways->pages < 100;
	unsigned int round, warm_up, i;
	struct times t;

	/* A small one is over in no time: more of them for the same trust. */
	rounds *= small ? 20 : 1;

	/*
	 * The first rounds warm up and aren't printed: while the emulator still
	 * translates what they run, and Xen still splits its large mappings of
	 * Dom0's memory, a single page takes twice its time.
	 */
	warm_up = small ? rounds : 1;

	for (round = 0; round < warm_up + rounds; round++)
		for (i = 0; i < NR_WAYS; i++) {
			/* They take turns in being the first, too. */
			unsigned int way = (i + round) % NR_WAYS;

			if (only && strcmp(only, all_ways[way].name))
				continue;
			settle();
			t = all_ways[way].measure(ways);
			if (round < warm_up || !t.release)
				continue;
			printf("%s %u %u %llu %llu\n", all_ways[way].name,
			       ways->pages, round - warm_up + 1,
			       (unsigned long long)t.map,
			       (unsigned long long)t.release);
			fflush(stdout);
		}
}

static void help(const char *name)
{
	printf("usage: %s [-r ROUNDS] [-w WAY] PAGES...\n"
	       "Measures the ways to map PAGES grants and to let go of them.\n"
	       "Needs root in Dom0, gntalloc, udmabuf and the system heap.\n"
	       "  -r ROUNDS  how often, 15 if not given, 20 times that below 100 pages;\n"
	       "             all ways take turns\n"
	       "  -w WAY     only this one, named as in the output\n",
	       name);
}

int main(int argc, char **argv)
{
	unsigned int rounds = 15;
	struct grants grants;
	struct ways ways = { .grants = &grants };
	const char *only = NULL;
	uint32_t most = 0;
	int i, opt;

	while ((opt = getopt(argc, argv, "hr:w:")) != -1) {
		if (opt == 'w')
			only = optarg;
		if (opt == 'r')
			rounds = strtoul(optarg, NULL, 0);
		if (opt == 'w' || (opt == 'r' && rounds))
			continue;
		help(argv[0]);
		return opt == 'h' ? 0 : 2;
	}
	for (i = optind; i < argc; i++)
		if (strtoul(argv[i], NULL, 0) > most)
			most = strtoul(argv[i], NULL, 0);
	if (!most) {
		help(argv[0]);
		return 2;
	}

	ways.gntdev = open(GNTDEV, O_RDWR | O_CLOEXEC);
	if (ways.gntdev < 0)
		fail(GNTDEV);
	grants_raise_limit();
	if (!grants_open(&grants, 0, most, true))
		fail("granting pages");
	fill(grants.mem, most, THEIRS);

	for (i = optind; i < argc; i++) {
		ways.pages = strtoul(argv[i], NULL, 0);
		measure(&ways, rounds, only);
	}

	grants_close(&grants);
	return 0;
}
