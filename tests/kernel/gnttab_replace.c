// SPDX-License-Identifier: GPL-2.0-only
/*
 * What Xen does with a grant that Dom0 has mapped over a page of its own, asked
 * by bare hypercalls: no driver stands in between.
 *
 * "patched": GNTTABOP_unmap_and_replace with new_addr == host_addr puts Dom0's
 * page back in one step. "debian": Xen refuses that and nothing has changed.
 * The way back without it (populate over the grant, then unmap at an address
 * where nothing is) has to work on both.
 *
 * Dom0 grants to itself. Its pages are gntalloc's: they don't move, and
 * /proc/self/pagemap tells where they are.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <xen/gntalloc.h>

#include "kselftest.h"

#define PAGE		4096UL
#define WORDS		(PAGE / sizeof(uint32_t))
#define LOOPS		2000
/* An address of Dom0 with nothing behind it: above the RAM of any testbed. */
#define HOLE		(128ULL << 30)

#define HYPERVISOR_memory_op		12
#define HYPERVISOR_grant_table_op	20
#define XENMEM_populate_physmap		6
#define GNTTABOP_map_grant_ref		0
#define GNTTABOP_unmap_grant_ref	1
#define GNTTABOP_unmap_and_replace	7
#define GNTMAP_host_map			(1 << 1)
#define GNTMAP_readonly			(1 << 2)
#define GNTST_okay			0
#define GNTST_general_error		(-1)
#define GNTST_bad_handle		(-4)
#define DOMID_SELF			0x7ff0

struct map_grant_ref {
	uint64_t host_addr;
	uint32_t flags;
	uint32_t ref;
	uint16_t dom;
	int16_t status;
	uint32_t handle;
	uint64_t dev_bus_addr;
};

struct unmap_grant_ref {
	uint64_t host_addr;
	uint64_t dev_bus_addr;
	uint32_t handle;
	int16_t status;
};

struct unmap_and_replace {
	uint64_t host_addr;
	uint64_t new_addr;
	uint32_t handle;
	int16_t status;
};

struct memory_reservation {
	uint64_t extent_start;
	uint64_t nr_extents;
	uint32_t extent_order;
	uint32_t mem_flags;
	uint16_t domid;
};

/* The kernel's own header of this ioctl needs headers that are not installed. */
struct privcmd_hypercall {
	uint64_t op;
	uint64_t arg[5];
};

#define IOCTL_PRIVCMD_HYPERCALL	_IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))

/* A page of Dom0's that it has a reference to grant, too. */
struct page {
	volatile uint32_t *mem;
	uint64_t addr;
	uint32_t ref;
};

static int privcmd, gntalloc;
static bool patched;

static void must(bool ok, const char *what)
{
	if (!ok)
		ksft_exit_fail_msg("%s: %s\n", what, strerror(errno));
}

static long hypercall(uint64_t op, uint64_t cmd, void *argument, uint64_t count)
{
	struct privcmd_hypercall call = {
		.op = op,
		.arg = { cmd, (uintptr_t)argument, count },
	};

	return ioctl(privcmd, IOCTL_PRIVCMD_HYPERCALL, &call);
}

static int map(const struct page *granted, uint64_t addr, uint32_t flags,
	       uint32_t *handle)
{
	struct map_grant_ref op = {
		.host_addr = addr,
		.flags = GNTMAP_host_map | flags,
		.ref = granted->ref,
	};

	must(!hypercall(HYPERVISOR_grant_table_op, GNTTABOP_map_grant_ref, &op, 1),
	     "map_grant_ref");
	*handle = op.handle;
	return op.status;
}

static int unmap(uint32_t handle, uint64_t addr)
{
	struct unmap_grant_ref op = { .host_addr = addr, .handle = handle };

	must(!hypercall(HYPERVISOR_grant_table_op, GNTTABOP_unmap_grant_ref, &op, 1),
	     "unmap_grant_ref");
	return op.status;
}

static int replace(uint32_t handle, uint64_t addr, uint64_t new_addr)
{
	struct unmap_and_replace op = {
		.host_addr = addr,
		.new_addr = new_addr,
		.handle = handle,
	};

	must(!hypercall(HYPERVISOR_grant_table_op, GNTTABOP_unmap_and_replace, &op, 1),
	     "unmap_and_replace");
	return op.status;
}

static bool populate(uint64_t addr)
{
	uint64_t gfn = addr / PAGE;
	struct memory_reservation op = {
		.extent_start = (uintptr_t)&gfn,
		.nr_extents = 1,
		.domid = DOMID_SELF,
	};

	return hypercall(HYPERVISOR_memory_op, XENMEM_populate_physmap, &op, 0) == 1;
}

/* The way back that every Xen has. */
static bool put_back(uint32_t handle, uint64_t addr)
{
	return populate(addr) && unmap(handle, HOLE) == GNTST_okay;
}

static uint64_t address_of(const volatile void *mem)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	must(pagemap >= 0, "/proc/self/pagemap");
	must(pread(pagemap, &entry, sizeof(entry), (uintptr_t)mem / PAGE * 8) == 8,
	     "/proc/self/pagemap");
	close(pagemap);
	must(entry >> 63, "a page that is not there");
	return (entry & ((1ULL << 55) - 1)) * PAGE;
}

static void fill(struct page *page, uint32_t mark)
{
	size_t i;

	for (i = 0; i < WORDS; i++)
		page->mem[i] = mark + i;
}

static bool holds(const struct page *page, uint32_t mark)
{
	size_t i;

	for (i = 0; i < WORDS; i++)
		if (page->mem[i] != mark + i)
			return false;
	return true;
}

static struct page new_page(void)
{
	struct ioctl_gntalloc_alloc_gref alloc = {
		.flags = GNTALLOC_FLAG_WRITABLE,
		.count = 1,
	};
	struct page page;

	must(!ioctl(gntalloc, IOCTL_GNTALLOC_ALLOC_GREF, &alloc), "gntalloc");
	page.mem = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, gntalloc,
			alloc.index);
	must(page.mem != MAP_FAILED, "gntalloc's page");
	page.ref = alloc.gref_ids[0];
	page.mem[0] = 0;
	page.addr = address_of(page.mem);
	return page;
}

#define OWN		0x10000000
#define THEIRS		0x20000000

/* A page of Dom0's with a granted page over it. */
struct scene {
	struct page own, theirs;
	uint32_t handle;
};

static void set_up(struct scene *s, uint32_t flags)
{
	fill(&s->own, OWN);
	fill(&s->theirs, THEIRS);
	must(map(&s->theirs, s->own.addr, flags, &s->handle) == GNTST_okay, "map");
	must(holds(&s->own, THEIRS), "the granted page can't be seen");
}

static void case_put_back(struct scene *s)
{
	bool ok;

	set_up(s, 0);
	ok = put_back(s->handle, s->own.addr) && holds(&s->own, OWN) &&
	     unmap(s->handle, s->own.addr) == GNTST_bad_handle;
	ksft_test_result(ok, "populate, then unmap where nothing is\n");
}

static void case_replace(struct scene *s, uint32_t flags, const char *name)
{
	int status;
	bool ok;

	set_up(s, flags);
	status = replace(s->handle, s->own.addr, s->own.addr);
	if (patched)
		ok = status == GNTST_okay && holds(&s->own, OWN) &&
		     unmap(s->handle, s->own.addr) == GNTST_bad_handle;
	else
		ok = status == GNTST_general_error && holds(&s->own, THEIRS);
	/* Xen lets a write to a grant that is mapped read-only fault for ever. */
	if (status != GNTST_okay)
		ok = put_back(s->handle, s->own.addr) && ok;
	/* It is memory again, and not the granted one. */
	fill(&s->own, OWN + 0x1000);
	ok = ok && holds(&s->own, OWN + 0x1000) && holds(&s->theirs, THEIRS);
	ksft_test_result(ok, "%s\n", name);
}

/* A call that has to be refused on any Xen, with nothing changed. */
static void case_refused(struct scene *s, uint64_t addr, uint64_t new_addr,
			 const char *name)
{
	int status;
	bool ok;

	set_up(s, 0);
	status = replace(s->handle, addr, new_addr);
	ok = status == GNTST_general_error && holds(&s->own, THEIRS);
	ok = put_back(s->handle, s->own.addr) && ok && holds(&s->own, OWN);
	if (!ok)
		ksft_print_msg("status %d\n", status);
	ksft_test_result(ok, "%s\n", name);
}

/* The handle of one mapping and the address of another. */
static void case_other_mapping(struct scene *s, struct page *third,
			       struct page *fourth)
{
	uint32_t other;
	bool ok;

	set_up(s, 0);
	fill(third, OWN + 0x2000);
	fill(fourth, THEIRS + 0x2000);
	must(map(fourth, third->addr, 0, &other) == GNTST_okay, "map");
	ok = replace(s->handle, third->addr, third->addr) == GNTST_general_error &&
	     holds(&s->own, THEIRS) && holds(third, THEIRS + 0x2000);
	ok = put_back(other, third->addr) && ok && holds(third, OWN + 0x2000);
	ok = put_back(s->handle, s->own.addr) && ok && holds(&s->own, OWN);
	ksft_test_result(ok, "the address of another mapping\n");
}

/* Mapped where Dom0 has no page: there is nothing to put back. */
static void case_no_own_page(struct scene *s)
{
	uint32_t handle;
	bool ok;

	must(map(&s->theirs, HOLE, 0, &handle) == GNTST_okay, "map");
	ok = replace(handle, HOLE, HOLE) == GNTST_general_error;
	ok = unmap(handle, HOLE) == GNTST_okay && ok;
	ksft_test_result(ok, "an address where no page is Dom0's\n");
}

static atomic_bool stop;
static atomic_ulong reads;

static void *reader(void *argument)
{
	volatile uint32_t *mem = argument;
	bool ok = true;

	while (!stop) {
		uint32_t word = mem[WORDS - 1] - (WORDS - 1);

		ok = ok && (word == OWN || word == THEIRS);
		reads++;
	}
	return (void *)(uintptr_t)ok;
}

static bool replace_with_own(uint32_t handle, uint64_t addr)
{
	return replace(handle, addr, addr) == GNTST_okay;
}

/* The page is never gone: a hole would end this program with a signal. */
static void case_no_hole(struct scene *s, bool (*back)(uint32_t, uint64_t),
			 const char *name)
{
	pthread_t thread;
	void *read_well;
	bool ok = true;
	int i;

	fill(&s->own, OWN);
	fill(&s->theirs, THEIRS);
	stop = false;
	reads = 0;
	must(!pthread_create(&thread, NULL, reader, (void *)s->own.mem), "thread");
	for (i = 0; ok && (i < LOOPS || reads < LOOPS); i++)
		ok = map(&s->theirs, s->own.addr, 0, &s->handle) == GNTST_okay &&
		     back(s->handle, s->own.addr);
	stop = true;
	pthread_join(thread, &read_well);
	ksft_print_msg("%d exchanges, %lu reads\n", i, (unsigned long)reads);
	ksft_test_result(ok && read_well && holds(&s->own, OWN), "%s\n", name);
}

int main(int argc, char **argv)
{
	struct page third, fourth;
	struct scene s;

	if (argc != 2 || (strcmp(argv[1], "patched") && strcmp(argv[1], "debian"))) {
		fprintf(stderr, "usage: gnttab_replace patched|debian\n");
		return 2;
	}
	patched = !strcmp(argv[1], "patched");

	privcmd = open("/dev/xen/privcmd", O_RDWR);
	must(privcmd >= 0, "/dev/xen/privcmd");
	gntalloc = open("/dev/xen/gntalloc", O_RDWR);
	must(gntalloc >= 0, "/dev/xen/gntalloc");
	s.own = new_page();
	s.theirs = new_page();
	third = new_page();
	fourth = new_page();
	/* Xen reads what a hypercall points to only where it is mapped. */
	must(!mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall");

	ksft_print_header();
	ksft_set_plan(10);
	case_put_back(&s);
	case_replace(&s, 0, "new_addr == host_addr");
	case_replace(&s, GNTMAP_readonly, "the same, mapped for reading only");
	case_refused(&s, s.own.addr, third.addr, "any other new_addr");
	case_refused(&s, s.own.addr | 8, s.own.addr | 8, "an address within a page");
	case_refused(&s, third.addr, third.addr, "an address where no grant is mapped");
	case_other_mapping(&s, &third, &fourth);
	case_no_own_page(&s);
	case_no_hole(&s, put_back, "read while populate puts it back");
	if (patched)
		case_no_hole(&s, replace_with_own, "read while new_addr == host_addr does");
	else
		ksft_test_result_skip("read while new_addr == host_addr does\n");
	ksft_finished();
}
