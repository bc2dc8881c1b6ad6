/* The event loop: descriptors that become ready, and timers. One thread, nothing blocks. */
#ifndef LOOP_H
#define LOOP_H

#include <stdbool.h>
#include <stdint.h>

/* A descriptor; events is 0 while the loop does not watch it. */
struct source {
	int fd;
	uint32_t events;
	void (*ready)(struct source *source, uint32_t events);
	void *owner;
};

struct timer {
	int64_t at_ns;
	void (*due)(struct timer *timer);
	void *owner;
	struct timer *next;
	bool armed;
};

int64_t monotonic_ns(void);

/* Watches for these EPOLL… events, or for none of them with 0. Always unwatch before closing. */
void loop_watch(struct source *source, uint32_t events);
void loop_unwatch(struct source *source);
/* Unwatches and closes, if it is open. */
void loop_close(struct source *source);

void timer_set(struct timer *timer, int milliseconds);
void timer_stop(struct timer *timer);

/* Runs until loop_stop. before is called ahead of every wait; true: there is more to do at once. */
void loop_run(bool (*before)(void));
void loop_stop(void);

#endif
