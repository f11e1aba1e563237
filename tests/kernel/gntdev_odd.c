// SPDX-License-Identifier: GPL-2.0-only
/*
 * What gntdev refuses to map grants over: dma-bufs whose pages look like Dom0's
 * memory but aren't. The module dmabuf_odd_exporter makes them; Dom0 grants to
 * itself, and GNTDEV_MAP_DOMID and GNTDEV_MAP_REFS are another domain's grants.
 */
#define _GNU_SOURCE

#include "gntdev_dmabuf_2023.h"
#include "kselftest.h"
#include "dmabuf_test.h"

#define PAGES		70
#define DEVICE		"/dev/dmabuf-odd-exporter"

static int odd_buffer(uint32_t kind, uint32_t domid, const uint32_t *refs)
{
	struct dmabuf_odd_export op = {
		.kind = kind,
		.pages = PAGES,
		.domid = domid,
		.refs = (uintptr_t)refs,
	};
	int device = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (device < 0)
		ksft_exit_fail_msg(DEVICE ": %s\n", strerror(errno));
	if (ioctl(device, DMABUF_ODD_EXPORT, &op))
		ksft_exit_fail_msg("odd buffer %u: %s\n", kind, strerror(errno));
	close(device);

	return op.fd;
}

/* By both kinds of ioctls; what is behind the pages must stay. */
static void refused(const char *what, int fd, const struct grants *grants)
{
	struct map_args args = {
		.count = PAGES,
		.fd = fd,
		.refs = grants->refs,
	};
	int ret = map_refs(open(GNTDEV, O_RDWR | O_CLOEXEC), &args);

	ksft_test_result(ret == -ENXIO, "%s: MAP_REFS: %s\n", what, strerror(-ret));
	ret = gntdev_map(open(GNTDEV, O_RDWR | O_CLOEXEC), &args);
	ksft_test_result(ret == -ENXIO, "%s: MAP_REFS_TO_BUF: %s\n", what, strerror(-ret));
	close(fd);
}

static void another_domain(const struct grants *grants)
{
	const char *list = getenv("GNTDEV_MAP_REFS");
	uint32_t refs[PAGES];
	char *end;
	int i;

	if (!list) {
		ksft_test_result_skip("grants of another domain: none given\n");
		ksft_test_result_skip("grants of another domain: none given\n");
		return;
	}
	for (i = 0; i < PAGES; i++, list = end + (*end == ','))
		refs[i] = strtoul(list, &end, 0);
	refused("grants of another domain", odd_buffer(DMABUF_ODD_FOREIGN,
		strtoul(getenv("GNTDEV_MAP_DOMID"), NULL, 0), refs), grants);
}

int main(void)
{
	struct grants grants, own;

	ksft_print_header();
	grants_raise_limit();
	if (!grants_open(&grants, 0, PAGES, true) || !grants_open(&own, 0, PAGES, true))
		ksft_exit_fail_msg("grants: %s\n", strerror(errno));
	fill(own.mem, PAGES, OURS);
	ksft_set_plan(7);

	refused("balloon", odd_buffer(DMABUF_ODD_BALLOONED, 0, NULL), &grants);
	refused("grants of the domain itself",
		odd_buffer(DMABUF_ODD_FOREIGN, 0, own.refs), &grants);
	another_domain(&grants);
	ksft_test_result(matching(own.mem, 0, PAGES, OURS) == PAGES, "memory untouched\n");

	ksft_finished();
}
