// SPDX-License-Identifier: MIT
/* What another program (a compositor, say) has on the screen: needs root, for DRM_IOCTL_MODE_GETFB2. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xf86drm.h>
#include <xf86drmMode.h>

#include "pattern.h"

static int write_pixels(int fd, const drmModeFB2 *fb, FILE *target)
{
	size_t size = (size_t)fb->pitches[0] * fb->height;
	uint64_t offset;
	void *pixels;
	int error = 0;

	if (drmModeMapDumbBuffer(fd, fb->handles[0], &offset))
		return -errno;
	pixels = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, offset);
	if (pixels == MAP_FAILED)
		return -errno;
	fprintf(target, "%u %u %u %.4s\n", fb->width, fb->height, fb->pitches[0], (const char *)&fb->pixel_format);
	if (fwrite(pixels, 1, size, target) != size || fflush(target))
		error = -EIO;
	munmap(pixels, size);
	return error;
}

int grab(const char *device, unsigned int index, FILE *target)
{
	int fd = open(device, O_RDWR | O_CLOEXEC);
	drmModeRes *resources;
	int error = -ENOENT;

	if (fd < 0)
		return -errno;
	resources = drmModeGetResources(fd);
	if (resources && index < (unsigned int)resources->count_crtcs) {
		drmModeCrtc *crtc = drmModeGetCrtc(fd, resources->crtcs[index]);
		drmModeFB2 *fb = crtc && crtc->buffer_id ? drmModeGetFB2(fd, crtc->buffer_id) : NULL;

		if (fb)
			error = write_pixels(fd, fb, target);
		drmModeFreeFB2(fb);
		drmModeFreeCrtc(crtc);
	}
	drmModeFreeResources(resources);
	close(fd);
	return error;
}
