// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long the ways to get at another domain's pages take, side by side.
 *
 * Dom0 grants the pages to itself, so one domain is enough. The ways take turns:
 * whatever else slows the machine down hits all of them. Prints a line for each
 * measurement: way, pages, round, nanoseconds to map, nanoseconds to let go. A
 * way that the machine hasn't the memory for has no line.
 *
 * Or, with -g, how long another CPU got nothing done meanwhile, at the longest.
 */
#define _GNU_SOURCE

#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>

#include "gntdev_dmabuf_2023.h"


#define BALLOON	"/sys/devices/system/xen_memory/xen_memory0"

struct ways {
	int gntdev;
	const struct grants *grants;
	uint32_t pages;
};

struct span {
	uint64_t time;
	uint64_t gap;
};

struct times {
	struct span map;
	struct span release;
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

static void pin(unsigned long cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		fail("sched_setaffinity");
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

static bool watched;
static atomic_bool gap_wanted;
static uint64_t longest_gap;

/* Runs on a CPU of its own and notes for how long it didn't run. */
static void *watch(void *cpu)
{
	uint64_t last = now(), longest = 0, time;

	pin((uintptr_t)cpu);
	/* This thread's alone. That another thread is given its CPU isn't meant. */
	if (setpriority(PRIO_PROCESS, 0, -20))
		fail("setpriority");
	for (;;) {
		time = now();
		if (time - last > longest)
			longest = time - last;
		last = time;
		if (!atomic_load(&gap_wanted))
			continue;
		longest_gap = longest;
		longest = 0;
		atomic_store(&gap_wanted, false);
	}
	return NULL;
}

/* The longest gap since the last call, with the one that lasts still. */
static uint64_t take_gap(void)
{
	if (!watched)
		return 0;
	atomic_store(&gap_wanted, true);
	while (atomic_load(&gap_wanted))
		;
	return longest_gap;
}

static uint64_t begin(void)
{
	take_gap();
	return now();
}

static struct span since(uint64_t start)
{
	struct span span = { .time = now() - start };

	span.gap = take_gap();
	return span;
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

	start = begin();
	check(gntdev_map(ways->gntdev, &args), "MAP_REFS_TO_BUF");
	t.map = since(start);

	expect_theirs(buf.mem, ways->pages);
	buffer_unmap(&buf);

	start = begin();
	check(gntdev_release(ways->gntdev, fd), "MAP_RELEASE");
	buffer_close(&buf);
	check(gntdev_wait(ways->gntdev, fd, DEADLINE_MS), "MAP_WAIT_RELEASED");
	t.release = since(start);

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
	struct times t = { .map.time = 0 };
	uint64_t start;
	int memfd;

	if (!buffer_open(&buf, UDMABUF, ways->pages))
		fail("udmabuf");
	memfd = dup(buf.memfd);
	buffer_unmap(&buf);

	start = begin();
	buffer_close(&buf);
	t.release = since(start);

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

	start = begin();
	if (ioctl(ways->gntdev, IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS, op)) {
		/* It must be contiguous then, and so much isn't there. */
		if (!flags || errno != ENOMEM)
			fail("EXP_FROM_REFS");
		free(op);
		return (struct times) { .map.time = 0 };
	}
	t.map = since(start);

	wait.fd = op->fd;
	start = begin();
	close(op->fd);
	if (ioctl(ways->gntdev, IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED, &wait) &&
	    errno != ENOENT)
		fail("EXP_WAIT_RELEASED");
	t.release = since(start);

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

	start = begin();
	if (ioctl(ways->gntdev, IOCTL_GNTDEV_MAP_GRANT_REF, op))
		fail("MAP_GRANT_REF");
	mem = mmap(NULL, ways->pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		   ways->gntdev, op->index);
	if (mem == MAP_FAILED)
		fail("mmap of gntdev");
	t.map = since(start);

	expect_theirs(mem, ways->pages);

	unmap.index = op->index;
	start = begin();
	if (munmap(mem, ways->pages * PAGE) ||
	    ioctl(ways->gntdev, IOCTL_GNTDEV_UNMAP_GRANT_REF, &unmap))
		fail("UNMAP_GRANT_REF");
	t.release = since(start);

	free(op);
	return t;
}

/* What another CPU misses when nobody does anything. */
static struct times idle(const struct ways *ways)
{
	struct timespec pause = { .tv_nsec = 100000000 };
	struct times t = { .map.time = 0 };
	uint64_t start;

	(void)ways;
	start = begin();
	nanosleep(&pause, NULL);
	t.release = since(start);
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
	{ "idle", idle },
};

#define NR_WAYS		(sizeof(all_ways) / sizeof(all_ways[0]))

static unsigned long long value(const struct span *span)
{
	return watched ? span->gap : span->time;
}

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
			if (!watched && all_ways[way].measure == idle)
				continue;
			settle();
			t = all_ways[way].measure(ways);
			if (round < warm_up || !t.release.time)
				continue;
			printf("%s %u %u %llu %llu\n", all_ways[way].name,
			       ways->pages, round - warm_up + 1,
			       value(&t.map), value(&t.release));
			fflush(stdout);
		}
}

static void help(const char *name)
{
	printf("usage: %s [-g] [-r ROUNDS] [-w WAY] PAGES...\n"
	       "Measures the ways to map PAGES grants and to let go of them.\n"
	       "Needs root in Dom0, gntalloc, udmabuf and the system heap.\n"
	       "  -g         not the times, but for how long CPU 1 did nothing meanwhile\n"
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
	pthread_t watcher;
	uint32_t most = 0;
	int i, opt;

	while ((opt = getopt(argc, argv, "ghr:w:")) != -1) {
		if (opt == 'w')
			only = optarg;
		if (opt == 'r')
			rounds = strtoul(optarg, NULL, 0);
		if (opt == 'g')
			watched = true;
		if (opt == 'g' || opt == 'w' || (opt == 'r' && rounds))
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

	if (watched) {
		pin(0);
		check(-pthread_create(&watcher, NULL, watch, (void *)1),
		      "pthread_create");
		take_gap();
	}

	/*
	 * The first use of a buffer keeps a page of the balloon for good, so
	 * what Dom0 has after it is what settle() can wait for.
	 */
	ways.pages = 1;
	map_udmabuf(&ways);
	write_number(BALLOON "/target_kb", read_number(BALLOON "/info/current_kb"));

	for (i = optind; i < argc; i++) {
		ways.pages = strtoul(argv[i], NULL, 0);
		measure(&ways, rounds, only);
	}

	grants_close(&grants);
	return 0;
}
