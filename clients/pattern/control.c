// SPDX-License-Identifier: MIT
/* One command a connection over a Unix socket; the answer is one line of JSON. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "pattern.h"

#define COMMAND_MAX 128

static int address(struct sockaddr_un *name, const char *path)
{
	if (strlen(path) >= sizeof(name->sun_path))
		return -ENAMETOOLONG;
	memset(name, 0, sizeof(*name));
	name->sun_family = AF_UNIX;
	strcpy(name->sun_path, path);
	return 0;
}

int control_listen(const char *path)
{
	struct sockaddr_un name;
	int fd, error = address(&name, path);

	if (error)
		return error;
	unlink(path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&name, sizeof(name)) || listen(fd, 4)) {
		error = -errno;
		close(fd);
		return error;
	}
	return fd;
}

int control_send(const char *path, const char *command)
{
	struct sockaddr_un name;
	char answer[1024];
	ssize_t got;
	int fd, error = address(&name, path);

	if (error)
		return error;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&name, sizeof(name)))
		return -errno;
	if (write(fd, command, strlen(command)) < 0 || shutdown(fd, SHUT_WR))
		return -errno;
	while ((got = read(fd, answer, sizeof(answer))) > 0)
		fwrite(answer, 1, got, stdout);
	close(fd);
	return got < 0 ? -errno : 0;
}

void control_report(const struct screens *screens, FILE *stream)
{
	fputs("{\"screens\": [", stream);
	for (unsigned int s = 0; s < screens->count; s++) {
		const struct screen *screen = &screens->screen[s];
		const struct picture *picture = &screen->buffers[screen->front].picture;

		fprintf(stream,
			"%s{\"stream\": %u, \"width\": %u, \"height\": %u, \"pitch\": %u, \"fourcc\": \"%.4s\", "
			"\"buffers\": %d, \"frame\": %u, \"flips\": %" PRIu64 ", \"error\": %d}",
			s ? ", " : "", screen->stream, picture->width, picture->height, picture->pitch,
			(const char *)&picture->fourcc, BUFFERS, screen->frame, screen->flips, screen->error);
	}
	fputs("]}\n", stream);
}

static struct picture *pick(struct screens *screens, unsigned int s, uint32_t x, uint32_t y)
{
	struct picture *picture;

	if (s >= screens->count)
		return NULL;
	picture = &screens->screen[s].buffers[screens->screen[s].front].picture;
	return x < picture->width && y < picture->height ? picture : NULL;
}

static void want(struct screens *screens, uint64_t frames)
{
	for (unsigned int s = 0; s < screens->count; s++) {
		screens->screen[s].wanted = frames;
		screens->screen[s].error = 0;
	}
}

/* Returns true when the answer has to wait until the screens are idle. */
static bool execute(struct screens *screens, const char *command, FILE *stream)
{
	unsigned int s, x, y, rgb;
	uint64_t frames;
	struct picture *picture;

	if (sscanf(command, "poke %u %u %u %x", &s, &x, &y, &rgb) == 4 && (picture = pick(screens, s, x, y))) {
		picture_set(picture, x, y, rgb);
		fprintf(stream, "{\"rgb\": \"%06x\"}\n", picture_get(picture, x, y));
	} else if (sscanf(command, "peek %u %u %u", &s, &x, &y) == 3 && (picture = pick(screens, s, x, y))) {
		fprintf(stream, "{\"rgb\": \"%06x\"}\n", picture_get(picture, x, y));
	} else if (sscanf(command, "flip %" SCNu64, &frames) == 1) {
		want(screens, frames);
		return true;
	} else if (!strcmp(command, "hold")) {
		want(screens, 0);
		return true;
	} else if (!strcmp(command, "dirty")) {
		screens_dirty(screens);
		control_report(screens, stream);
	} else if (sscanf(command, "dpms %u", &s) == 1) {
		screens_dpms(screens, s);
		control_report(screens, stream);
	} else if (!strcmp(command, "set")) {
		screens_set(screens);
		control_report(screens, stream);
	} else if (!strcmp(command, "run")) {
		want(screens, UINT64_MAX);
		control_report(screens, stream);
	} else if (!strcmp(command, "state")) {
		control_report(screens, stream);
	} else {
		fputs("{\"error\": \"unknown command, screen or position\"}\n", stream);
	}
	return false;
}

/* Takes over the client; *waiting is the client to be answered when the screens are idle. */
void control_serve(struct screens *screens, int client, FILE **waiting)
{
	char command[COMMAND_MAX] = "";
	size_t length = 0;
	ssize_t got;
	FILE *stream = fdopen(client, "r+");

	if (!stream) {
		close(client);
		return;
	}
	while (length < sizeof(command) - 1 &&
	       (got = read(client, command + length, sizeof(command) - 1 - length)) > 0)
		length += got;
	command[strcspn(command, "\n")] = '\0';
	if (*waiting) {
		fputs("{\"error\": \"superseded\"}\n", *waiting);
		fclose(*waiting);
		*waiting = NULL;
	}
	if (execute(screens, command, stream))
		*waiting = stream;
	else
		fclose(stream);
}
