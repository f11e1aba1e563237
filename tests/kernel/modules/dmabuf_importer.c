// SPDX-License-Identifier: GPL-2.0-only
/*
 * Imports dma-bufs as a device of a direct-mapped Arm Dom0 does, and tells what
 * the device sees: dmabuf_test.h.
 */
#include <linux/dma-buf.h>
#include <linux/dma-direct.h>
#include <linux/dma-map-ops.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/of.h>
#include <linux/of_device.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "dmabuf_test.h"

struct importer {
	struct platform_device *pdev;
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	struct sg_table *sgt;
	enum dma_data_direction dir;
	/* The device's own operations, and those that count before they call them. */
	const struct dma_map_ops *ops;
	struct dma_map_ops counting;
	struct dmabuf_importer_syncs syncs;
	dma_addr_t *addresses;
	unsigned int pages;
	/* The import is made once. */
	struct mutex lock;
};

static void count_sync(struct importer *imp, u32 *counter, int nents,
		       enum dma_data_direction dir)
{
	++*counter;
	imp->syncs.direction = dir + 1;
	imp->syncs.segments = nents;
}

static void sync_for_cpu(struct device *dev, struct scatterlist *sgl, int nents,
			 enum dma_data_direction dir)
{
	struct importer *imp = dev_get_drvdata(dev);

	count_sync(imp, &imp->syncs.for_cpu, nents, dir);
	imp->ops->sync_sg_for_cpu(dev, sgl, nents, dir);
}

static void sync_for_device(struct device *dev, struct scatterlist *sgl, int nents,
			    enum dma_data_direction dir)
{
	struct importer *imp = dev_get_drvdata(dev);

	count_sync(imp, &imp->syncs.for_device, nents, dir);
	imp->ops->sync_sg_for_device(dev, sgl, nents, dir);
}

/* As the bus does for a device of the device tree: on Arm it chooses swiotlb-xen. */
static int give_dma_ops(struct importer *imp)
{
	struct device *dev = &imp->pdev->dev;
	int ret;

	ret = dma_coerce_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (!ret)
		ret = of_dma_configure(dev, of_root, true);
	if (ret)
		return ret;

	imp->ops = get_dma_ops(dev);
	if (!imp->ops || !imp->ops->sync_sg_for_cpu) {
		dev_err(dev, "maps without swiotlb-xen: is this a direct-mapped Dom0 on Arm?\n");
		return -ENODEV;
	}
	imp->counting = *imp->ops;
	imp->counting.sync_sg_for_cpu = sync_for_cpu;
	imp->counting.sync_sg_for_device = sync_for_device;
	set_dma_ops(dev, &imp->counting);
	return 0;
}

static int importer_open(struct inode *inode, struct file *file)
{
	struct importer *imp = kzalloc(sizeof(*imp), GFP_KERNEL);
	int ret;

	if (!imp)
		return -ENOMEM;

	mutex_init(&imp->lock);
	imp->pdev = platform_device_register_simple("dmabuf-importer", PLATFORM_DEVID_AUTO,
						    NULL, 0);
	if (IS_ERR(imp->pdev)) {
		ret = PTR_ERR(imp->pdev);
		goto err_free;
	}
	dev_set_drvdata(&imp->pdev->dev, imp);
	ret = give_dma_ops(imp);
	if (ret)
		goto err_unregister;

	file->private_data = imp;
	return 0;

err_unregister:
	platform_device_unregister(imp->pdev);
err_free:
	kfree(imp);
	return ret;
}

static int importer_release(struct inode *inode, struct file *file)
{
	struct importer *imp = file->private_data;

	if (imp->attach) {
		dma_buf_unmap_attachment_unlocked(imp->attach, imp->sgt, imp->dir);
		dma_buf_detach(imp->dmabuf, imp->attach);
		dma_buf_put(imp->dmabuf);
	}
	kvfree(imp->addresses);
	platform_device_unregister(imp->pdev);
	kfree(imp);
	return 0;
}

static int note_addresses(struct importer *imp)
{
	struct sg_dma_page_iter iter;

	imp->pages = imp->dmabuf->size >> PAGE_SHIFT;
	imp->addresses = kvcalloc(imp->pages, sizeof(*imp->addresses), GFP_KERNEL);
	if (!imp->addresses)
		return -ENOMEM;

	imp->pages = 0;
	for_each_sgtable_dma_page(imp->sgt, &iter, 0)
		imp->addresses[imp->pages++] = sg_page_iter_dma_address(&iter);
	return 0;
}

static int attach(struct importer *imp, int fd)
{
	int ret;

	imp->dmabuf = dma_buf_get(fd);
	if (IS_ERR(imp->dmabuf))
		return PTR_ERR(imp->dmabuf);

	imp->attach = dma_buf_attach(imp->dmabuf, &imp->pdev->dev);
	if (IS_ERR(imp->attach)) {
		ret = PTR_ERR(imp->attach);
		goto err_put;
	}
	imp->sgt = dma_buf_map_attachment_unlocked(imp->attach, imp->dir);
	if (IS_ERR(imp->sgt)) {
		ret = PTR_ERR(imp->sgt);
		goto err_detach;
	}
	ret = note_addresses(imp);
	if (ret)
		goto err_unmap;
	return 0;

err_unmap:
	dma_buf_unmap_attachment_unlocked(imp->attach, imp->sgt, imp->dir);
err_detach:
	dma_buf_detach(imp->dmabuf, imp->attach);
err_put:
	dma_buf_put(imp->dmabuf);
	imp->attach = NULL;
	return ret;
}

static void set_coherent(struct device *dev, bool coherent)
{
	/* A member until 6.18 at least. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 2, 0)
	dev_assign_dma_coherent(dev, coherent);
#else
	dev->dma_coherent = coherent;
#endif
}

static long import(struct importer *imp, struct dmabuf_importer_import __user *user)
{
	struct dmabuf_importer_import op;
	int ret;

	if (copy_from_user(&op, user, sizeof(op)))
		return -EFAULT;
	if (imp->attach)
		return -EBUSY;
	if (op.direction < 1 || op.direction > 3)
		return -EINVAL;

	imp->dir = op.direction - 1;
	set_coherent(&imp->pdev->dev, op.coherent);
	ret = attach(imp, op.fd);
	if (ret)
		return ret;

	op.segments = imp->sgt->nents;
	if (copy_to_user(u64_to_user_ptr(op.addresses), imp->addresses,
			 min(op.pages, imp->pages) * sizeof(*imp->addresses)))
		return -EFAULT;
	op.pages = imp->pages;
	return copy_to_user(user, &op, sizeof(op)) ? -EFAULT : 0;
}

static long importer_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct importer *imp = file->private_data;
	void __user *user = (void __user *)arg;
	long ret = -ENOTTY;

	mutex_lock(&imp->lock);
	switch (cmd) {
	case DMABUF_IMPORTER_IMPORT:
		ret = import(imp, user);
		break;
	case DMABUF_IMPORTER_SYNCS:
		ret = copy_to_user(user, &imp->syncs, sizeof(imp->syncs)) ? -EFAULT : 0;
		memset(&imp->syncs, 0, sizeof(imp->syncs));
		break;
	}
	mutex_unlock(&imp->lock);
	return ret;
}

/* A page at a time. A frame that isn't Dom0's own can't be read by its machine address. */
static ssize_t importer_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct importer *imp = file->private_data;
	phys_addr_t phys;

	if (!imp->addresses || *pos >> PAGE_SHIFT >= imp->pages)
		return 0;

	phys = dma_to_phys(&imp->pdev->dev, imp->addresses[*pos >> PAGE_SHIFT]);
	if (!pfn_valid(PHYS_PFN(phys)))
		return -ENXIO;
	count = min(count, PAGE_SIZE - offset_in_page(*pos));
	if (copy_to_user(buf, phys_to_virt(phys) + offset_in_page(*pos), count))
		return -EFAULT;
	*pos += count;
	return count;
}

static const struct file_operations importer_fops = {
	.owner = THIS_MODULE,
	.open = importer_open,
	.release = importer_release,
	.unlocked_ioctl = importer_ioctl,
	.read = importer_read,
	.llseek = default_llseek,
};

static struct miscdevice importer_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dmabuf-importer",
	.fops = &importer_fops,
};
module_misc_device(importer_device);

MODULE_DESCRIPTION("Imports dma-bufs like a device behind swiotlb-xen, for tests");
MODULE_LICENSE("GPL");
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
MODULE_IMPORT_NS("DMA_BUF");
#else
MODULE_IMPORT_NS(DMA_BUF);
#endif
