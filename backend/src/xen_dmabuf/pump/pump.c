/* SPDX-License-Identifier: MIT */
/*
 * Serves plain flips inside of asyncio's selector. What is plain: the only new request is PG_FLIP of a
 * picture that Python has shown before in the same place, no flip is open, and nothing has to be waited
 * for but the compositor. Everything else is left as it is for Python, which has the same code.
 *
 * The DomU writes ring and event page at any time: each word of it is read once, a packet is copied out
 * once, and indexes are checked before they are used; indexes of our own are never read back.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* xen/io/ring.h, xen/io/displif.h */
#define PACKET 64
#define HEADER 64
#define RING_SLOTS 32
#define EVENT_SLOTS 63
#define OP_PG_FLIP 0x15
#define EVT_PG_FLIP 0
enum { REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT };
enum { IN_CONS, IN_PROD };

/* where event indexes are Python's: 2^32 is no multiple of EVENT_SLOTS */
#define NEAR_WRAP 0xffffff00u

/* more of them are a storm: Python holds it off */
#define IDLE_EVENTS 8

/* statefile.py: two records, and which of them is valid */
#define RECORD 192
#define VALID (2 * RECORD)

#define FOREVER (INT_MAX / 1000)	/* seconds; what epoll_wait() takes milliseconds of */

#define IOCTL_EVTCHN_NOTIFY _IOC(_IOC_NONE, 'E', 4, 4)

_Static_assert(sizeof(struct journal) == 144, "Journal.FORMAT of statefile.py");

static uint32_t load(const char *page, unsigned int word)
{
	return __atomic_load_n((const uint32_t *)page + word, __ATOMIC_ACQUIRE);
}

static void store(char *page, unsigned int word, uint32_t value)
{
	__atomic_store_n((uint32_t *)page + word, value, __ATOMIC_RELEASE);
}

double monotonic(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

int evtchn_notify(int evtchn, uint32_t port)
{
	return ioctl(evtchn, IOCTL_EVTCHN_NOTIFY, &port);
}

int evtchn_unmask(int evtchn, uint32_t port)
{
	return write(evtchn, &port, sizeof(port)) == sizeof(port) ? 0 : -1;
}

/* As Journal.save(): the half that isn't valid, and then one store that makes it so. */
static void save(struct lane *lane)
{
	uint32_t other = 1 - (load(lane->record, VALID / 4) & 1);

	memcpy(lane->record + other * RECORD, &lane->values, sizeof(lane->values));
	store(lane->record, VALID / 4, other);
}

static int find(const struct lane *lane, uint64_t cookie)
{
	for (size_t i = 0; i < lane->pictures; i++)
		if (lane->picture[i].cookie == cookie)
			return i;
	return -1;
}

/* -- the answer */

static void answer(struct pump *pump, struct lane *lane)
{
	struct journal *values = &lane->values;
	uint32_t consumed = load(lane->events, IN_CONS);
	uint64_t event[PACKET / 8] = { 0 };

	/* no room, a lie, or near the wrap: Python has the rules and the words for that */
	if (consumed > values->in_prod || values->in_prod >= NEAR_WRAP ||
	    values->in_prod - consumed >= EVENT_SLOTS) {
		lane->attention = true;
		return;
	}
	event[0] = values->event_id | (uint64_t)EVT_PG_FLIP << 16;
	event[1] = values->cookies[0];
	memcpy(lane->events + HEADER + values->in_prod % EVENT_SLOTS * PACKET, event, PACKET);
	values->in_prod++;
	values->event_id = (values->event_id + 1) & 0xffff;
	values->shown++;
	values->open_flips = 0;
	values->cookies[0] = 0;
	save(lane);
	store(lane->events, IN_PROD, values->in_prod);
	lane->flying = false;
	lane->answered_at = pump->clock();
	if (pump->notify(pump->evtchn, lane->event_port))
		lane->attention = true;
}

static void settle(struct pump *pump, struct lane *lane)
{
	if (lane->flying && lane->drawn && (lane->replaced < 0 || !lane->picture[lane->replaced].busy))
		answer(pump, lane);
}

/* wl_dispatcher_func_t, of the frame callback: "done" is its only event */
static int on_done(const void *data, void *target, uint32_t opcode, const void *message, void *arguments)
{
	struct pump *pump = (struct pump *)data;

	(void)opcode, (void)message, (void)arguments;
	for (size_t i = 0; i < pump->lent; i++) {
		struct lane *lane = pump->lanes[i];

		if (lane->callback == target) {
			pump->heard++;
			pump->destroy(target);
			lane->callback = NULL;
			lane->drawn = true;
			settle(pump, lane);
			return 0;
		}
	}
	callback_done(target);
	return 0;
}

/* Whether its release ends here: Python waits for the fences of a GPU that still reads it. */
static bool release(struct pump *pump, struct lane *lane, struct picture *picture)
{
	struct pollfd fences = { .fd = picture->dmabuf, .events = POLLOUT };

	if (picture->dmabuf >= 0 && poll(&fences, 1, 0) != 1)
		return false;
	picture->busy = false;
	pump->heard++;
	settle(pump, lane);
	return true;
}

int (*python_dispatcher)(const void *data, void *target, uint32_t opcode, const void *message, void *arguments);
struct pump *buffers_pump;

/* "release" is the only event of a wl_buffer */
int buffer_dispatcher(const void *data, void *target, uint32_t opcode, const void *message, void *arguments)
{
	struct pump *pump = buffers_pump;

	for (size_t i = 0; pump && i < pump->lent; i++) {
		struct lane *lane = pump->lanes[i];

		for (size_t j = 0; j < lane->pictures; j++)
			if (lane->picture[j].buffer == target && release(pump, lane, &lane->picture[j]))
				return 0;
	}
	return python_dispatcher(data, target, opcode, message, arguments);
}

/* -- the request */

static void present(struct pump *pump, struct lane *lane, int index)
{
	struct picture *picture = &lane->picture[index];
	uint64_t new_id = 0;	/* union wl_argument */

	if (picture->copy_to) {
		memcpy(picture->copy_to, picture->copy_from, picture->copy_length);
		lane->copied += picture->copy_length;
	}
	pump->marshal(lane->surface, pump->attach, picture->attach);
	pump->marshal(lane->surface, pump->damage, lane->damage);
	lane->callback = pump->construct(lane->surface, pump->frame, &new_id, pump->callback_interface);
	if (lane->callback)
		pump->add_dispatcher(lane->callback, on_done, pump, NULL);
	pump->marshal(lane->surface, pump->commit, NULL);
	lane->replaced = lane->shown != index && !picture->copy_to ? lane->shown : -1;
	lane->shown = index;
	picture->busy = true;
	lane->flying = true;
	lane->drawn = false;
	if (pump->flush(pump->display) < 0)
		pump->flush_again = true;
}

/* False: nothing was done, and the event is Python's. */
static bool serve(struct pump *pump, struct lane *lane)
{
	struct journal *values = &lane->values;
	uint32_t number = lane->requests_consumed;
	char *slot = lane->ring + HEADER + number % RING_SLOTS * PACKET;
	uint64_t packet[2], response[PACKET / 8] = { 0 };
	uint32_t old = values->answered, produced = load(lane->ring, REQ_PROD);
	double time;
	int index;

	if (lane->attention)
		return false;
	if (produced == number && lane->idle_events < IDLE_EVENTS) {
		lane->idle_events++;	/* what it told of is served already */
		return true;
	}
	time = pump->clock();
	if (produced != number + 1 || lane->flying || number != old || time >= lane->sample_at)
		return false;
	memcpy(packet, slot, sizeof(packet));
	__atomic_signal_fence(__ATOMIC_SEQ_CST);	/* from here on only the copy counts */
	if ((packet[0] >> 16 & 0xff) != OP_PG_FLIP)
		return false;
	index = find(lane, packet[1]);
	if (index < 0)
		return false;

	lane->idle_events = 0;
	lane->requests_consumed = number + 1;
	store(lane->ring, REQ_EVENT, number + 2);
	response[0] = packet[0] & 0xffffff;	/* id and operation, status 0 */
	values->answered = values->last_flip = number + 1;
	values->fb_cookie = values->cookies[0] = packet[1];
	values->open_flips = 1;
	values->requested++;
	memcpy(values->response, response, sizeof(values->response));
	save(lane);
	lane->committed = time;
	present(pump, lane, index);

	memcpy(slot, response, PACKET);
	store(lane->ring, RSP_PROD, values->answered);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (values->answered - load(lane->ring, RSP_EVENT) < values->answered - old &&
	    pump->notify(pump->evtchn, lane->request_port))
		lane->attention = true;
	if (load(lane->ring, REQ_PROD) != lane->requests_consumed)
		lane->attention = true;	/* it came while no event was asked for */
	return true;
}

/* -- what is ready */

/* Whether all events of the event channels were dealt with. */
static bool hear_ports(struct pump *pump)
{
	uint32_t ports[ARRAY_SIZE(pump->ports)];
	ssize_t length;

	if (pump->ports_left)
		return false;
	length = read(pump->evtchn, ports, sizeof(ports));
	for (ssize_t i = 0; i < length / (ssize_t)sizeof(ports[0]); i++) {
		bool served = false;

		for (size_t j = 0; j < pump->lent && !served; j++)
			if (pump->lanes[j]->request_port == ports[i])
				served = serve(pump, pump->lanes[j]);
		if (!served || pump->unmask(pump->evtchn, ports[i]))
			pump->ports[pump->ports_left++] = ports[i];
	}
	return length > 0 && !pump->ports_left;
}

/* Whether all events of the compositor were dealt with. */
static bool hear_compositor(struct pump *pump)
{
	int events = 0, more;

	pump->heard = 0;
	while (pump->prepare_read(pump->display)) {
		more = pump->dispatch_pending(pump->display);
		if (more < 0)
			return false;
		events += more;
	}
	if (pump->read_events(pump->display))
		return false;
	/* libwayland's own events (delete_id) come with any queue, and count there */
	if (pump->dispatch_queue(pump->display, pump->no_events) < 0)
		return false;
	more = pump->dispatch_pending(pump->display);
	if (more < 0)
		return false;
	events += more;
	return events > 0 && events == pump->heard;
}

static bool wants_attention(const struct pump *pump)
{
	for (size_t i = 0; i < pump->lent; i++)
		if (pump->lanes[i]->attention)
			return true;
	return pump->flush_again;
}

double pump_patience(struct pump *pump)
{
	double least = FOREVER, time = pump->clock();

	for (size_t i = 0; i < pump->lent; i++) {
		struct lane *lane = pump->lanes[i];
		double left = lane->committed + lane->patience - time;

		if (!lane->flying)
			continue;
		if (left < least)
			least = left;
		if (left <= 0)
			lane->attention = true;
	}
	return least;
}

int pump_wait(struct pump *pump, int epoll, int timeout, struct ready *ready, int most)
{
	struct epoll_event events[64];
	double end = pump->clock() + (timeout < 0 ? FOREVER : timeout / 1e3);

	if (most > (int)ARRAY_SIZE(events))
		most = ARRAY_SIZE(events);
	for (;;) {
		double patience = pump_patience(pump);
		double left = end - pump->clock();
		int count, rest = 0;

		if (wants_attention(pump))
			return 0;
		left = left < patience ? left : patience;
		count = epoll_wait(epoll, events, most, left > 0 ? (int)(left * 1e3 + 0.999) : 0);
		if (count < 0)
			return errno == EINTR ? 0 : -errno;
		for (int i = 0; i < count; i++) {
			int fd = events[i].data.fd;

			if (pump->lent && fd == pump->evtchn && hear_ports(pump))
				continue;
			if (pump->lent && fd == pump->wayland && hear_compositor(pump))
				continue;
			ready[rest].fd = fd;
			ready[rest++].events = events[i].events;
		}
		if (rest || wants_attention(pump) || pump->clock() >= end)
			return rest;
	}
}

/* -- Python's and C's turn */

bool lane_lend(struct pump *pump, struct lane *lane)
{
	if (pump->lent == ARRAY_SIZE(pump->lanes))
		return false;
	lane->flying = lane->drawn = lane->attention = false;
	lane->replaced = -1;
	lane->callback = NULL;
	lane->idle_events = 0;
	lane->lent = true;
	pump->lanes[pump->lent++] = lane;
	return true;
}

void lane_reclaim(struct pump *pump, struct lane *lane)
{
	for (size_t i = 0; i < pump->lent; i++)
		if (pump->lanes[i] == lane) {
			pump->lanes[i] = pump->lanes[--pump->lent];
			break;
		}
	lane->lent = false;
}
