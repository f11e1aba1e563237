/* SPDX-License-Identifier: GPL-2.0-only */
/* What the test modules and the programs that use them agree on. */
#ifndef DMABUF_TEST_H
#define DMABUF_TEST_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * /dev/dmabuf-importer: a device that maps for DMA as those of a direct-mapped
 * Arm Dom0 do, by swiotlb-xen. An open file is one device with one attachment.
 * read() gives what the device would read at that offset of the dma-buf.
 */

/* Attach and map a dma-buf; -EBUSY if there is one already. */
struct dmabuf_importer_import {
	__s32 fd;
	/* 1: both ways, 2: the device reads, 3: it writes (enum dma_data_direction, + 1). */
	__u32 direction;
	/* Whether the device sees the CPU's caches. */
	__u32 coherent;
	/* Out: segments of the mapping. */
	__u32 segments;
	/* In: how many addresses there is room for; out: pages of the mapping. */
	__u32 pages;
	__u32 reserved;
	/* Array of __u64: the DMA address of each page. */
	__u64 addresses;
};

/* How often the mapping was synced since the last of these calls. */
struct dmabuf_importer_syncs {
	__u32 for_cpu;
	__u32 for_device;
	/* Of the last sync: direction as above (0: none), segments. */
	__u32 direction;
	__u32 segments;
};

#define DMABUF_IMPORTER_IMPORT	_IOWR('X', 1, struct dmabuf_importer_import)
#define DMABUF_IMPORTER_SYNCS	_IOR('X', 2, struct dmabuf_importer_syncs)

/* /dev/dmabuf-odd-exporter: dma-bufs of pages that aren't Dom0's own memory. */

/* Given to the hypervisor by the balloon: no frame behind them, but System RAM. */
#define DMABUF_ODD_BALLOONED	0
/* Another domain's frames are mapped there. */
#define DMABUF_ODD_FOREIGN	1

struct dmabuf_odd_export {
	__u32 kind;
	__u32 pages;
	/* Only for DMABUF_ODD_FOREIGN: array of @pages grant references of @domid. */
	__u32 domid;
	/* Out: the dma-buf. */
	__s32 fd;
	__u64 refs;
};

#define DMABUF_ODD_EXPORT	_IOWR('X', 3, struct dmabuf_odd_export)

#endif
