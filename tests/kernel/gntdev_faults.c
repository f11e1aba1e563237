// SPDX-License-Identifier: GPL-2.0-only
/*
 * What gntdev's ioctls for dma-bufs do when something is refused to them: each
 * allocation and each access to user memory in turn, by the kernel's own fault
 * injection (/proc/thread-self/fail-nth), and each grant of a batch, by Xen.
 *
 * After every failure the errno must be a documented one, the buffer and gntdev
 * as they were before, and the same call must succeed. Dom0 grants to itself.
 */
#define _GNU_SOURCE

#include "gntdev_dmabuf_2023.h"
#include "kselftest.h"

/* Two batches and a bit. */
#define PAGES		150
/* More places than any call has: the end of a loop that would never end. */
#define MOST_PLACES	2000

struct setting {
	int gntdev;
	enum exporter exporter;
	struct buffer buf;
	struct grants grants;
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

static void start(void)
{
	failed = false;
}

static void done(const char *what, const struct setting *s)
{
	ksft_test_result(!failed, "%s: %s\n", what, exporter_names[s->exporter]);
}

/* Open all the time: opening it is something that can fail as well. */
static int fail_nth_fd;

/* The n-th place of this thread that can fail does so; 0 ends it. */
static void fail_nth(int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", n);

	/* The copy of the text may be that place, if one is left over. */
	while (write(fail_nth_fd, text, len) != len)
		if (errno != EFAULT)
			ksft_exit_fail_msg("fail-nth: %s\n", strerror(errno));
}

/* Whether it has happened; ends it. */
static bool has_failed(void)
{
	char text[16] = "";
	ssize_t len = pread(fail_nth_fd, text, sizeof(text) - 1, 0);

	if (len < 0 && errno != EFAULT)
		ksft_exit_fail_msg("fail-nth: %s\n", strerror(errno));
	fail_nth(0);

	/* What is left of the count, if this wasn't the one itself. */
	return len > 0 && !atoi(text);
}

static bool is_own(const struct buffer *buf)
{
	bool ok = matching(buf->mem, 0, buf->pages, OURS) == buf->pages;

	fill(buf->mem, buf->pages, REPLY);
	ok = ok && matching(buf->mem, 0, buf->pages, REPLY) == buf->pages;
	fill(buf->mem, buf->pages, OURS);

	return ok;
}

static void new_buffer(struct setting *s)
{
	if (!buffer_open(&s->buf, s->exporter, PAGES))
		ksft_exit_fail_msg("%s: %s\n", exporter_names[s->exporter],
				   strerror(errno));
	fill(s->buf.mem, s->buf.pages, OURS);
}

static struct map_args args_for(const struct setting *s)
{
	return (struct map_args) {
		.count = PAGES,
		.fd = s->buf.fd,
		.refs = s->grants.refs,
	};
}

/* A mapping that works from its beginning to its end, with a new buffer after it. */
static void release(struct setting *s)
{
	int fd = s->buf.fd;

	EXPECT(matching(s->buf.mem, 0, PAGES, THEIRS) == PAGES,
	       "not all of the granted pages are there\n");
	EXPECT(!gntdev_release(s->gntdev, fd), "MAP_RELEASE fails\n");
	buffer_close(&s->buf);
	EXPECT(!gntdev_wait(s->gntdev, fd, DEADLINE_MS), "never released\n");
	EXPECT(matching(s->grants.mem, 0, PAGES, THEIRS) == PAGES,
	       "the granted pages have changed\n");
	new_buffer(s);
}

static void nothing_happened(struct setting *s, const char *call, int place)
{
	EXPECT(is_own(&s->buf), "%s, place %d: the buffer has changed\n", call,
	       place);
	EXPECT(gntdev_release(s->gntdev, s->buf.fd) == -ENOENT,
	       "%s, place %d: there is an entry\n", call, place);
}

static bool documented(int ret)
{
	return ret == -ENOMEM || ret == -EFAULT;
}

static void map_fails(struct setting *s)
{
	struct map_args args;
	int place, ret = 0, refused = 0;

	start();
	for (place = 1; place < MOST_PLACES && !failed; place++) {
		args = args_for(s);
		fail_nth(place);
		ret = gntdev_map(s->gntdev, &args);
		if (!has_failed())
			break;

		if (ret) {
			refused++;
			EXPECT(documented(ret), "place %d: %s\n", place,
			       strerror(-ret));
			nothing_happened(s, "map", place);
			ret = gntdev_map(s->gntdev, &args);
		}
		/* What has another way to do it may succeed at once. */
		EXPECT(!ret, "place %d, again: %s\n", place, strerror(-ret));
		release(s);
	}
	EXPECT(!ret, "without a fault: %s\n", strerror(-ret));
	release(s);
	EXPECT(refused, "nothing was refused: is the fault injection set up?\n");
	ksft_print_msg("%d places, %d of them refused\n", place - 1, refused);
	done("MAP_REFS_TO_BUF, each allocation and copy fails", s);
}

static void map(struct setting *s)
{
	struct map_args args = args_for(s);
	int ret = gntdev_map(s->gntdev, &args);

	EXPECT(!ret, "map: %s\n", strerror(-ret));
}

static void release_fails(struct setting *s)
{
	int place, ret = 0;

	start();
	map(s);
	for (place = 1; place < MOST_PLACES && !failed; place++) {
		fail_nth(place);
		ret = gntdev_release(s->gntdev, s->buf.fd);
		if (!has_failed())
			break;
		EXPECT(ret == -EFAULT, "place %d: %s\n", place, strerror(-ret));
		EXPECT(matching(s->buf.mem, 0, PAGES, THEIRS) == PAGES,
		       "place %d: the buffer has changed\n", place);
		EXPECT(!gntdev_wait(s->gntdev, s->buf.fd, 0),
		       "place %d: released nevertheless\n", place);
	}
	EXPECT(!ret, "without a fault: %s\n", strerror(-ret));
	ret = s->buf.fd;
	buffer_close(&s->buf);
	EXPECT(!gntdev_wait(s->gntdev, ret, DEADLINE_MS), "never released\n");
	new_buffer(s);
	ksft_print_msg("%d places\n", place - 1);
	done("MAP_RELEASE, each copy fails", s);
}

static void wait_fails(struct setting *s)
{
	int place, ret = 0, fd = s->buf.fd;

	start();
	map(s);
	EXPECT(!gntdev_release(s->gntdev, fd), "MAP_RELEASE fails\n");
	for (place = 1; place < MOST_PLACES && !failed; place++) {
		fail_nth(place);
		ret = gntdev_wait(s->gntdev, fd, 0);
		if (!has_failed())
			break;
		EXPECT(ret == -EFAULT, "place %d: %s\n", place, strerror(-ret));
	}
	EXPECT(ret == -ETIMEDOUT, "without a fault: %s\n", strerror(-ret));
	buffer_close(&s->buf);
	EXPECT(!gntdev_wait(s->gntdev, fd, DEADLINE_MS), "never released\n");
	new_buffer(s);
	ksft_print_msg("%d places\n", place - 1);
	done("MAP_WAIT_RELEASED, each copy fails", s);
}

/* The way back happens when the last file is closed, and must not fail at all. */
static void last_close_fails(struct setting *s)
{
	int place, fd;
	bool was;

	start();
	for (place = 1; place < MOST_PLACES && !failed; place++) {
		map(s);
		fd = s->buf.fd;
		EXPECT(!gntdev_release(s->gntdev, fd), "MAP_RELEASE fails\n");
		fail_nth(place);
		buffer_close(&s->buf);
		was = has_failed();
		EXPECT(!gntdev_wait(s->gntdev, fd, DEADLINE_MS),
		       "place %d: never released\n", place);
		EXPECT(matching(s->grants.mem, 0, PAGES, THEIRS) == PAGES,
		       "place %d: the granted pages have changed\n", place);
		new_buffer(s);
		if (!was)
			break;
	}
	ksft_print_msg("%d places\n", place - 1);
	done("the last close, each allocation fails", s);
}

static void open_fails(struct setting *s)
{
	int place, error = 0, fd = -1, refused = 0;

	start();
	for (place = 1; place < MOST_PLACES && !failed; place++) {
		fail_nth(place);
		fd = open(GNTDEV, O_RDWR | O_CLOEXEC);
		error = errno;
		if (!has_failed())
			break;
		refused += fd < 0;
		EXPECT(fd >= 0 || error == ENOMEM || error == EFAULT,
		       "place %d: %s\n", place, strerror(error));
		if (fd >= 0)
			close(fd);
	}
	EXPECT(fd >= 0, "without a fault: %s\n", strerror(error));
	EXPECT(refused, "nothing was refused: is the fault injection set up?\n");
	close(fd);
	ksft_print_msg("%d places, %d of them refused\n", place - 1, refused);
	done("open of gntdev, each allocation fails", s);
}

static void xen_refuses(struct setting *s)
{
	struct map_args args = args_for(s);
	uint32_t good;
	int i, ret;

	start();
	for (i = 0; i < PAGES && !failed; i++) {
		good = s->grants.refs[i];
		s->grants.refs[i] = 0x7fffffff;
		ret = gntdev_map(s->gntdev, &args);
		s->grants.refs[i] = good;
		EXPECT(ret == -EREMOTEIO, "grant %d: %s\n", i, strerror(-ret));
		nothing_happened(s, "grant", i);
	}
	map(s);
	release(s);
	done("Xen refuses a grant, at each index", s);
}

/* Two of them in one batch: the first one's errno, and one way back for both. */
static void xen_refuses_many(struct setting *s)
{
	struct map_args args = args_for(s);
	uint32_t *refs = calloc(PAGES, sizeof(*refs));
	int step, i, ret;

	start();
	args.refs = refs;
	for (step = 1; step < PAGES && !failed; step++) {
		for (i = 0; i < PAGES; i++)
			refs[i] = i % step ? s->grants.refs[i] : 0x7fffffff;
		ret = gntdev_map(s->gntdev, &args);
		EXPECT(ret == -EREMOTEIO, "each %d.: %s\n", step,
		       strerror(-ret));
		nothing_happened(s, "each", step);
	}
	free(refs);
	map(s);
	release(s);
	done("Xen refuses each n-th grant, for each n", s);
}

/* Xen's table of mapped grants is full, wherever that is in the last buffer. */
static void table_is_full(struct setting *s)
{
	struct buffer bufs[64];
	int fds[64], nr, ret = 0;
	struct map_args args;

	if (s->exporter == HUGE_UDMABUF) {
		ksft_test_result_skip("Xen's table of mapped grants is full: not with so many huge pages\n");
		return;
	}

	start();
	for (nr = 0; nr < 64 && !failed; nr++) {
		args = args_for(s);
		ret = gntdev_map(s->gntdev, &args);
		if (ret)
			break;
		bufs[nr] = s->buf;
		fds[nr] = s->buf.fd;
		new_buffer(s);
	}
	if (!ret) {
		ksft_test_result_skip("Xen's table of mapped grants is full: it has room for all\n");
	} else {
		EXPECT(ret == -ENOSPC, "full: %s\n", strerror(-ret));
		nothing_happened(s, "buffer", nr);
	}

	while (nr--) {
		EXPECT(!gntdev_release(s->gntdev, fds[nr]), "MAP_RELEASE\n");
		buffer_close(&bufs[nr]);
		EXPECT(!gntdev_wait(s->gntdev, fds[nr], DEADLINE_MS),
		       "never released\n");
	}
	if (!ret)
		return;
	map(s);
	release(s);
	done("Xen's table of mapped grants is full", s);
}

static const struct {
	void (*run)(struct setting *s);
	bool needs_fault_injection;
} cases[] = {
	{ map_fails, true },
	{ release_fails, true },
	{ wait_fails, true },
	{ last_close_fails, true },
	{ open_fails, true },
	{ xen_refuses, false },
	{ xen_refuses_many, false },
	{ table_is_full, false },
};

#define NR_CASES	(sizeof(cases) / sizeof(cases[0]))

static void run(struct setting *s)
{
	unsigned int i;

	if (!buffer_open(&s->buf, s->exporter, PAGES)) {
		for (i = 0; i < NR_CASES; i++)
			ksft_test_result_skip("%s isn't there\n",
					      exporter_names[s->exporter]);
		return;
	}
	fill(s->buf.mem, s->buf.pages, OURS);
	for (i = 0; i < NR_CASES; i++)
		if (cases[i].needs_fault_injection && fail_nth_fd < 0)
			ksft_test_result_skip("no fault injection: %s\n",
					      exporter_names[s->exporter]);
		else
			cases[i].run(s);
	buffer_close(&s->buf);
}

int main(void)
{
	struct setting s = { .gntdev = open(GNTDEV, O_RDWR | O_CLOEXEC) };

	ksft_print_header();
	if (s.gntdev < 0)
		ksft_exit_fail_msg(GNTDEV ": %s\n", strerror(errno));
	fail_nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	grants_raise_limit();
	if (!grants_open(&s.grants, 0, PAGES, true))
		ksft_exit_fail_msg("grants: %s\n", strerror(errno));
	fill(s.grants.mem, PAGES, THEIRS);

	ksft_set_plan(NR_CASES * EXPORTERS);
	for (s.exporter = 0; s.exporter < EXPORTERS; s.exporter++)
		run(&s);

	grants_close(&s.grants);
	ksft_finished();
}
