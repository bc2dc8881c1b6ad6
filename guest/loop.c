/* epoll and a short list of timers. */
#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

static int epoll = -1;
static bool stopped;
static struct timer *timers;

int64_t monotonic_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void loop_watch(struct source *source, uint32_t events)
{
	if (epoll < 0 && (epoll = epoll_create1(EPOLL_CLOEXEC)) < 0) {
		perror("epoll_create1");
		exit(1);
	}
	if (!events) {
		loop_unwatch(source);
		return;
	}
	if (source->events == events)
		return;
	struct epoll_event event = {.events = events, .data.ptr = source};
	if (epoll_ctl(epoll, source->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, source->fd, &event))
		perror("epoll_ctl");
	else
		source->events = events;
}

void loop_unwatch(struct source *source)
{
	if (source->events)
		epoll_ctl(epoll, EPOLL_CTL_DEL, source->fd, NULL);
	source->events = 0;
}

void loop_close(struct source *source)
{
	if (source->fd < 0)
		return;
	loop_unwatch(source);
	close(source->fd);
	source->fd = -1;
}

void timer_set(struct timer *timer, int milliseconds)
{
	timer->at_ns = monotonic_ns() + milliseconds * INT64_C(1000000);
	if (timer->armed)
		return;
	timer->armed = true;
	timer->next = timers;
	timers = timer;
}

void timer_stop(struct timer *timer)
{
	for (struct timer **at = &timers; timer->armed && *at; at = &(*at)->next)
		if (*at == timer) {
			*at = timer->next;
			timer->armed = false;
			return;
		}
}

/* The timer that is due, or none; wait_ms becomes the time to the next one, -1 without any. */
static struct timer *due_timer(int *wait_ms)
{
	struct timer *first = NULL;
	for (struct timer *timer = timers; timer; timer = timer->next)
		if (!first || timer->at_ns < first->at_ns)
			first = timer;
	*wait_ms = -1;
	if (!first)
		return NULL;
	int64_t left = first->at_ns - monotonic_ns();
	if (left <= 0)
		return first;
	*wait_ms = (int)((left + 999999) / 1000000);
	return NULL;
}

void loop_run(bool (*before)(void))
{
	while (!stopped) {
		int wait_ms;
		struct timer *timer;
		while ((timer = due_timer(&wait_ms)) && !stopped) {
			timer_stop(timer);
			timer->due(timer);
		}
		if (before())
			wait_ms = 0;
		/* before() may have set a timer; one event at a time, since a handler may free other sources */
		int next_ms;
		if (due_timer(&next_ms))
			wait_ms = 0;
		else if (wait_ms && next_ms >= 0)
			wait_ms = next_ms;
		struct epoll_event event;
		int ready = epoll_wait(epoll, &event, 1, wait_ms);
		if (ready < 0 && errno != EINTR) {
			perror("epoll_wait");
			exit(1);
		}
		if (ready == 1) {
			struct source *source = event.data.ptr;
			source->ready(source, event.events);
		}
	}
}

void loop_stop(void)
{
	stopped = true;
}
