// SPDX-License-Identifier: MIT
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <drm_fourcc.h>

#include "pattern.h"

static const char help[] =
	"Usage: xen-dmabuf-pattern run [OPTIONS]\n"
	"       xen-dmabuf-pattern send [--socket PATH] COMMAND\n"
	"       xen-dmabuf-pattern grab [--device PATH] > FILE\n"
	"       xen-dmabuf-pattern habit [--device PATH] [--stream N] NAME\n"
	"\n"
	"run shows numbered test frames on every connected connector of a DRM device.\n"
	"  --device PATH    DRM card (default: the first one with a connected screen)\n"
	"  --format FORMAT  XR24, AR24 or RG16 (default XR24)\n"
	"  --stream N       number of the first screen in the picture (default 0)\n"
	"  --socket PATH    where commands come in (default /run/xen-dmabuf-pattern.sock)\n"
	"  --hold           show frame 0 and wait for commands; else flip for ever\n"
	"\n"
	"send gives a command to a running program and prints its answer:\n"
	"  state            what each screen shows\n"
	"  run              flip for ever\n"
	"  hold             stop after the page flip under way\n"
	"  flip N           make N page flips, answer when all are done\n"
	"  poke S X Y RRGGBB  write a pixel of screen S's visible buffer, nothing else\n"
	"  peek S X Y       read one\n"
	"  dirty            say that the visible buffers were drawn into (DIRTYFB), without a flip\n"
	"  dpms N           switch the screens off (3) and on (0), with what they show kept\n"
	"  set              set the screens' modes again, with what they show\n"
	"\n"
	"grab writes what the first CRTC shows, whoever drew it: a line with width, height,\n"
	"pitch and format, then the pixels.\n"
	"\n"
	"habit does what some other KMS program does, by default on /dev/dri/card0. It prints\n"
	"a line of JSON with what each screen has to show, and waits: SIGUSR1 goes on if there\n"
	"is more, SIGTERM ends.\n"
	"\n"
	"Exit status: 0 fine, 1 the device failed or went away, 2 wrong usage.\n"
	"\n"
	"Names of habits:\n";

#define CARDS 16

struct options {
	const char *device;	/* NULL: the first card with a connected screen */
	const char *socket;
	uint32_t fourcc;
	unsigned int stream;
	bool hold;
};

static const char *card_of(const struct options *options)
{
	return options->device ? options->device : "/dev/dri/card*";
}

static int usage(const char *problem)
{
	fprintf(stderr, "xen-dmabuf-pattern: %s; see --help\n", problem);
	return 2;
}

static uint32_t parse_format(const char *name)
{
	static const uint32_t known[] = { DRM_FORMAT_XRGB8888, DRM_FORMAT_ARGB8888, DRM_FORMAT_RGB565 };

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strlen(name) == 4 && !memcmp(name, &known[i], 4))
			return known[i];
	return 0;
}

static bool is_no_card(int error)
{
	return error == -ENOENT || error == -ENODEV;
}

/*
 * A frontend that reconnects while a program still holds its old card gets the next number.
 * Calls one of the two with each card until it finds a screen.
 */
static int first_card(const struct options *options, struct screens *screens, FILE *grabbed)
{
	char path[32];
	int error = -ENODEV;

	for (unsigned int i = 0; i < CARDS && is_no_card(error); i++) {
		const char *device = options->device;

		if (!device) {
			snprintf(path, sizeof(path), "/dev/dri/card%u", i);
			device = path;
		}
		if (screens)
			error = screens_open(screens, device, options->fourcc, options->stream);
		else
			error = grab(device, 0, grabbed);
	}
	return error;
}

static int open_when_there(struct screens *screens, const struct options *options)
{
	const struct timespec pause = { .tv_nsec = 50 * 1000 * 1000 };
	int error = -ENODEV;

	/* The frontend registers its card when the backend has connected. */
	for (int tries = 0; tries < 600; tries++) {
		error = first_card(options, screens, NULL);
		if (!is_no_card(error))
			break;
		nanosleep(&pause, NULL);
	}
	return error;
}

static int failed(const char *where, int error)
{
	fprintf(stderr, "xen-dmabuf-pattern: %s: %s\n", where, strerror(-error));
	return 1;
}

static int loop(struct screens *screens, int listener)
{
	FILE *waiting = NULL;
	int error = 0;

	while (!error) {
		struct pollfd fds[2] = {
			{ .fd = screens->fd, .events = POLLIN },
			{ .fd = listener, .events = POLLIN },
		};

		/* A refused flip is in the answer's "error"; only a vanished device ends the program. */
		if (screens_flip(screens) == -ENODEV)
			break;
		if (waiting && screens_idle(screens)) {
			control_report(screens, waiting);
			fclose(waiting);
			waiting = NULL;
		}
		if (poll(fds, 2, -1) < 0)
			return -errno;
		if (fds[0].revents & POLLIN)
			error = screens_events(screens);
		else if (fds[0].revents)
			error = -ENODEV;
		if (fds[1].revents & POLLIN) {
			int client = accept(listener, NULL, NULL);

			if (client >= 0)
				control_serve(screens, client, &waiting);
		}
	}
	return error ? error : -ENODEV;
}

static int run(const struct options *options)
{
	struct screens screens;
	int listener, error;

	signal(SIGPIPE, SIG_IGN);
	error = open_when_there(&screens, options);
	if (error)
		return failed(card_of(options), error);
	for (unsigned int s = 0; s < screens.count && !options->hold; s++)
		screens.screen[s].wanted = UINT64_MAX;
	listener = control_listen(options->socket);
	if (listener < 0)
		return failed(options->socket, listener);
	control_report(&screens, stdout);
	fflush(stdout);
	error = loop(&screens, listener);
	screens_close(&screens);
	return failed(card_of(options), error);
}

int main(int argc, char **argv)
{
	static const struct option known[] = {
		{ "device", required_argument, NULL, 'd' }, { "format", required_argument, NULL, 'f' },
		{ "stream", required_argument, NULL, 's' }, { "socket", required_argument, NULL, 'k' },
		{ "hold", no_argument, NULL, 'o' }, { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct options options = {
		.socket = "/run/xen-dmabuf-pattern.sock",
		.fourcc = DRM_FORMAT_XRGB8888,
	};
	int option, error;

	while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		switch (option) {
		case 'd':
			options.device = optarg;
			break;
		case 'f':
			options.fourcc = parse_format(optarg);
			if (!options.fourcc)
				return usage("unknown format");
			break;
		case 's':
			options.stream = strtoul(optarg, NULL, 10);
			break;
		case 'k':
			options.socket = optarg;
			break;
		case 'o':
			options.hold = true;
			break;
		case 'h':
			fputs(help, stdout);
			habit_list(stdout);
			return 0;
		default:
			return usage("unknown option");
		}
	}
	if (optind + 1 == argc && !strcmp(argv[optind], "run"))
		return run(&options);
	if (optind + 1 == argc && !strcmp(argv[optind], "grab")) {
		error = first_card(&options, NULL, stdout);
		return error ? failed(card_of(&options), error) : 0;
	}
	if (optind + 2 == argc && !strcmp(argv[optind], "habit")) {
		error = habit_run(options.device ? options.device : "/dev/dri/card0", options.stream, argv[optind + 1]);
		return error ? usage("unknown habit") : 0;
	}
	if (optind + 2 != argc || strcmp(argv[optind], "send"))
		return usage("say run, grab, habit NAME or send COMMAND");
	error = control_send(options.socket, argv[optind + 1]);
	return error ? failed(options.socket, error) : 0;
}
