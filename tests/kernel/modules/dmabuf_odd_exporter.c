// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exports dma-bufs of pages that aren't Dom0's own memory, for tests of who must
 * refuse them: dmabuf_test.h. Nothing may touch their contents.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/version.h>
#include <xen/grant_table.h>
#include <xen/xen.h>

#include "dmabuf_test.h"

#define MOST_PAGES 4096

struct odd_buffer {
	unsigned int count;
	struct page **pages;
	/* Only for foreign pages. */
	struct gnttab_map_grant_ref *maps;
	struct gnttab_unmap_grant_ref *unmaps;
};

static void unmap_foreign(struct odd_buffer *buffer)
{
	if (gnttab_unmap_refs(buffer->unmaps, NULL, buffer->pages, buffer->count))
		pr_err("dmabuf-odd-exporter: can't unmap\n");
}

static int map_foreign(struct odd_buffer *buffer, u32 domid, const u32 *refs)
{
	unsigned int i;
	int ret;

	buffer->maps = kvcalloc(buffer->count, sizeof(*buffer->maps), GFP_KERNEL);
	buffer->unmaps = kvcalloc(buffer->count, sizeof(*buffer->unmaps), GFP_KERNEL);
	if (!buffer->maps || !buffer->unmaps)
		return -ENOMEM;

	for (i = 0; i < buffer->count; i++)
		gnttab_set_map_op(&buffer->maps[i],
				  (unsigned long)page_address(buffer->pages[i]),
				  GNTMAP_host_map, refs[i], domid);
	ret = gnttab_map_refs(buffer->maps, NULL, buffer->pages, buffer->count);
	for (i = 0; i < buffer->count; i++) {
		gnttab_set_unmap_op(&buffer->unmaps[i],
				    (unsigned long)page_address(buffer->pages[i]),
				    GNTMAP_host_map, buffer->maps[i].handle);
		if (buffer->maps[i].status != GNTST_okay)
			ret = -EINVAL;
	}
	if (ret)
		unmap_foreign(buffer);
	return ret;
}

static void free_buffer(struct odd_buffer *buffer)
{
	if (buffer->pages)
		gnttab_free_pages(buffer->count, buffer->pages);
	kvfree(buffer->maps);
	kvfree(buffer->unmaps);
	kvfree(buffer->pages);
	kfree(buffer);
}

static int odd_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	return 0;
}

static struct sg_table *odd_map(struct dma_buf_attachment *attach, enum dma_data_direction dir)
{
	struct odd_buffer *buffer = attach->dmabuf->priv;
	struct sg_table *sgt = kzalloc(sizeof(*sgt), GFP_KERNEL);
	int ret;

	if (!sgt)
		return ERR_PTR(-ENOMEM);
	ret = sg_alloc_table_from_pages_segment(sgt, buffer->pages, buffer->count, 0,
						(size_t)buffer->count << PAGE_SHIFT, PAGE_SIZE,
						GFP_KERNEL);
	if (ret)
		goto err_free;
	ret = dma_map_sgtable(attach->dev, sgt, dir, DMA_ATTR_SKIP_CPU_SYNC);
	if (ret)
		goto err_free_table;
	return sgt;

err_free_table:
	sg_free_table(sgt);
err_free:
	kfree(sgt);
	return ERR_PTR(ret);
}

static void odd_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		      enum dma_data_direction dir)
{
	dma_unmap_sgtable(attach->dev, sgt, dir, DMA_ATTR_SKIP_CPU_SYNC);
	sg_free_table(sgt);
	kfree(sgt);
}

static void odd_release(struct dma_buf *dmabuf)
{
	struct odd_buffer *buffer = dmabuf->priv;

	if (buffer->unmaps)
		unmap_foreign(buffer);
	free_buffer(buffer);
}

static const struct dma_buf_ops odd_ops = {
	.attach = odd_attach,
	.map_dma_buf = odd_map,
	.unmap_dma_buf = odd_unmap,
	.release = odd_release,
};

static struct odd_buffer *make_buffer(const struct dmabuf_odd_export *op)
{
	struct odd_buffer *buffer = kzalloc(sizeof(*buffer), GFP_KERNEL);
	u32 *refs = NULL;
	int ret = -ENOMEM;

	if (!buffer)
		return ERR_PTR(-ENOMEM);
	buffer->count = op->pages;
	buffer->pages = kvcalloc(op->pages, sizeof(*buffer->pages), GFP_KERNEL);
	if (!buffer->pages)
		goto err;
	ret = gnttab_alloc_pages(op->pages, buffer->pages);
	if (ret) {
		kvfree(buffer->pages);
		buffer->pages = NULL;
		goto err;
	}
	if (op->kind == DMABUF_ODD_FOREIGN) {
		refs = vmemdup_user(u64_to_user_ptr(op->refs), op->pages * sizeof(*refs));
		if (IS_ERR(refs)) {
			ret = PTR_ERR(refs);
			goto err;
		}
		ret = map_foreign(buffer, op->domid, refs);
		kvfree(refs);
		if (ret)
			goto err;
	}
	return buffer;

err:
	free_buffer(buffer);
	return ERR_PTR(ret);
}

static long odd_export(struct dmabuf_odd_export __user *user)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct dmabuf_odd_export op;
	struct odd_buffer *buffer;
	struct dma_buf *dmabuf;

	if (copy_from_user(&op, user, sizeof(op)))
		return -EFAULT;
	if (!op.pages || op.pages > MOST_PAGES || op.kind > DMABUF_ODD_FOREIGN)
		return -EINVAL;

	buffer = make_buffer(&op);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);

	info.ops = &odd_ops;
	info.size = (size_t)op.pages << PAGE_SHIFT;
	info.flags = O_RDWR;
	info.priv = buffer;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		if (buffer->unmaps)
			unmap_foreign(buffer);
		free_buffer(buffer);
		return PTR_ERR(dmabuf);
	}

	op.fd = dma_buf_fd(dmabuf, O_CLOEXEC);
	if (op.fd < 0) {
		dma_buf_put(dmabuf);
		return op.fd;
	}
	/* The number is installed already: a process that gave a bad address finds it itself. */
	return copy_to_user(user, &op, sizeof(op)) ? -EFAULT : 0;
}

static long odd_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	return cmd == DMABUF_ODD_EXPORT ? odd_export((void __user *)arg) : -ENOTTY;
}

static const struct file_operations odd_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = odd_ioctl,
};

static struct miscdevice odd_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dmabuf-odd-exporter",
	.fops = &odd_fops,
};
module_misc_device(odd_device);

MODULE_DESCRIPTION("Exports dma-bufs of memory that isn't Dom0's own, for tests");
MODULE_LICENSE("GPL");
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
MODULE_IMPORT_NS("DMA_BUF");
#else
MODULE_IMPORT_NS(DMA_BUF);
#endif
