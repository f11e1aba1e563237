/* SPDX-License-Identifier: MIT */
/*
 * What Python knows of pump.c; cffi reads this file, so it has no preprocessor lines.
 *
 * A lane is what C needs to serve one connector's plain flips. It is Python's until lane_lend() and
 * after lane_reclaim(); in between C writes it, and only inside of pump_wait() and lane_released().
 */

/* of displif's ring, event page and packets, and of the journal in statefile.py */
struct journal {
	uint32_t answered, in_prod, event_id, last_flip;
	uint64_t fb_cookie, open_flips;
	uint64_t cookies[8];
	uint64_t requested, shown, not_shown, refused;
	uint64_t response[2];
};

struct picture {
	uint64_t cookie;
	void *buffer;		/* struct wl_proxy of its wl_buffer */
	void *attach;		/* union wl_argument[3] of wl_surface.attach */
	int dmabuf;		/* whose fences are polled when it is released, -1: none */
	bool busy;		/* from the commit until the compositor has released it and the GPU has read it */
	char *copy_to;		/* NULL: nothing is copied */
	const char *copy_from;
	size_t copy_length;	/* bytes */
};

struct lane {
	/* fixed between lane_lend() and lane_reclaim() */
	char *ring, *events, *record;	/* two shared pages, and the journal's records */
	uint32_t request_port, event_port;
	void *surface;			/* struct wl_proxy of the picture's surface */
	void *damage;			/* union wl_argument[4] of wl_surface.damage_buffer */
	double sample_at;		/* a flip at or after that is Python's: it asks when it is seen */
	double patience;		/* seconds until a flip is Python's, which answers it as not shown */
	size_t pictures;
	struct picture picture[16];
	/* what changes */
	uint32_t requests_consumed;
	struct journal values;
	int shown;			/* index of the picture that was committed last */
	int replaced;			/* that has to be released before the flip is answered, -1: none */
	bool flying, drawn;		/* a flip without its event; whether its frame was drawn */
	void *callback;			/* its wl_callback, NULL: none is open */
	double committed, answered_at;	/* by pump.clock */
	uint64_t copied;		/* bytes */
	unsigned int idle_events;	/* of the request port since the last flip */
	bool lent;
	bool attention;			/* Python has to take it back, for a reason that C doesn't deal with */
	void *owner;			/* Python's handle */
};

struct pump {
	/* set once */
	double (*clock)(void);		/* the event loop's, seconds */
	int (*notify)(int evtchn, uint32_t port);
	int (*unmask)(int evtchn, uint32_t port);
	void (*marshal)(void *proxy, uint32_t opcode, void *arguments);
	void *(*construct)(void *proxy, uint32_t opcode, void *arguments, const void *interface);
	int (*add_dispatcher)(void *proxy, void *dispatcher, const void *data, void *user);
	void (*destroy)(void *proxy);
	int (*prepare_read)(void *display);
	int (*read_events)(void *display);
	int (*dispatch_pending)(void *display);
	int (*dispatch_queue)(void *display, void *queue);
	int (*flush)(void *display);
	const void *callback_interface;
	uint32_t attach, damage, frame, commit;	/* opcodes of wl_surface */
	/* of the moment */
	int evtchn, wayland;		/* file descriptors */
	void *display, *no_events;	/* a queue of no object */
	struct lane *lanes[64];
	size_t lent;			/* so many of them */
	int heard;			/* events that were dealt with, of those dispatched now */
	bool flush_again;		/* the compositor's socket was full, or broken: flush() has to be called */
	uint32_t ports[64];		/* of events that were read and are Python's */
	size_t ports_left;
};

struct ready {
	int fd;
	uint32_t events;
};

/* the defaults of struct pump */
double monotonic(void);
int evtchn_notify(int evtchn, uint32_t port);
int evtchn_unmask(int evtchn, uint32_t port);

/*
 * epoll_wait(2), but that plain flips, their frame events and releases are dealt with. Returns how many
 * descriptors are ready for Python (0 after timeout milliseconds, a signal, or for a lane's attention), or
 * a negative errno. timeout -1: none.
 */
int pump_wait(struct pump *pump, int epoll, int timeout, struct ready *ready, int most);

/* Seconds until a lane is Python's if nothing happens, more than a week: never. Marks those whose time is up. */
double pump_patience(struct pump *pump);

/* False: there are too many. */
bool lane_lend(struct pump *pump, struct lane *lane);
void lane_reclaim(struct pump *pump, struct lane *lane);

/*
 * A wl_dispatcher_func_t for wl_buffers: the release of a lent picture is dealt with, unless the GPU's
 * fences have to be waited for; all else goes to python_dispatcher.
 */
int buffer_dispatcher(const void *data, void *target, uint32_t opcode, const void *message, void *arguments);
extern int (*python_dispatcher)(const void *data, void *target, uint32_t opcode, const void *message, void *arguments);
/* Whose lanes they are. */
extern struct pump *buffers_pump;
