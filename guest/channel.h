/* The agent's end of the channel to the host: one port, one session at a time, a bounded queue. */
#ifndef CHANNEL_H
#define CHANNEL_H

#include "frames.h"

#include <jansson.h>

struct channel_owner {
	/* A message of the session, or one of type session, whichever its number. */
	void (*message)(const json_t *message, uint32_t session, int64_t received_ns);
	void (*data)(const struct frame *frame);
	/* There is room in the queue again. */
	void (*drained)(void);
};

/* Looks for the port until there is one, and again whenever it is lost. */
void channel_open(const char *path, const struct channel_owner *owner);

/* From now on only this session is listened to; what was queued for another is thrown away. */
void channel_begin(uint32_t session);
uint32_t channel_session(void); /* 0 before the first */

/* Queues a message and drops the reference to it. */
void channel_send(json_t *message);
void channel_send_data(uint32_t stream, uint8_t channel, uint8_t flags, const uint8_t *data, size_t length);

/* Whether producers of data and of calls may go on; if not, drained() will be called. */
bool channel_roomy(void);

bool channel_idle(void); /* nothing is queued */

/* Writes what the port takes now. Called before every wait. */
void channel_flush(void);

uint64_t channel_dropped(void); /* frames and messages that were not sound, ever */

#endif
