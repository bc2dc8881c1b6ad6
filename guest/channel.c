/* Queue, session filter and assembly of messages between the port and the rest of the agent. */
#include "channel.h"
#include "agent.h"
#include "loop.h"
#include "port.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum {
	QUEUE_LOW = 128 << 10,	  /* producers go on below it */
	QUEUE_HIGH = 256 << 10,	  /* and stop above it, as does reading: whoever does not read is not read */
	QUEUE_MOST = 1 << 20,
	MESSAGE_MOST = 256 << 10, /* of several frames */
	READ_AT_ONCE = 64 << 10,
};

static const struct channel_owner *owner;
static uint32_t session;
static uint64_t dropped;

static struct {
	uint8_t *bytes;
	size_t start, end, room;
	bool full; /* was above QUEUE_HIGH and not yet below QUEUE_LOW */
} queue;

static struct frame_reader reader;

static struct {
	char *bytes;
	size_t length;
	uint32_t session;
	bool open, spoiled; /* spoiled: too long, dropped with its last frame */
} assembly;

uint32_t channel_session(void)
{
	return session;
}

uint64_t channel_dropped(void)
{
	return dropped + reader.dropped;
}

/* Room for so many bytes at the queue's end, or NULL if that is too much. */
static uint8_t *queue_room(size_t length)
{
	size_t queued = queue.end - queue.start;
	if (queued + length > QUEUE_MOST)
		return NULL;
	if (queue.start && queue.end + length > queue.room) {
		memmove(queue.bytes, queue.bytes + queue.start, queued);
		queue.start = 0;
		queue.end = queued;
	}
	if (queued + length > queue.room) {
		size_t room = queue.room ? queue.room : 64 << 10;
		while (room < queued + length)
			room *= 2;
		uint8_t *bytes = realloc(queue.bytes, room);
		if (!bytes)
			return NULL;
		queue.bytes = bytes;
		queue.room = room;
	}
	return queue.bytes + queue.end;
}

static void queue_empty(void)
{
	free(queue.bytes);
	queue.bytes = NULL;
	queue.start = queue.end = queue.room = 0;
}

bool channel_roomy(void)
{
	if (queue.end - queue.start > QUEUE_HIGH)
		queue.full = true;
	return !queue.full;
}

bool channel_idle(void)
{
	return queue.end == queue.start;
}

static void send_frame(uint8_t kind, uint32_t stream, uint8_t channel, uint8_t flags, const uint8_t *payload,
		       size_t length)
{
	uint8_t *to = queue_room(FRAME_ENCODED);
	if (!to) {
		dropped++;
		return;
	}
	queue.end += frame_encode(&(struct frame){kind, channel, flags, session, stream, payload, length}, to);
}

void channel_send_data(uint32_t stream, uint8_t channel, uint8_t flags, const uint8_t *data, size_t length)
{
	send_frame(FRAME_DATA, stream, channel, flags, data, length);
}

void channel_send(json_t *message)
{
	size_t length = message ? json_dumpb(message, NULL, 0, JSON_COMPACT) : 0;
	char *text = length && length <= MESSAGE_MOST ? malloc(length) : NULL;
	if (text) {
		json_dumpb(message, text, length, JSON_COMPACT);
		for (size_t at = 0; at < length; at += FRAME_PAYLOAD) {
			size_t part = length - at > FRAME_PAYLOAD ? FRAME_PAYLOAD : length - at;
			send_frame(FRAME_MESSAGE, 0, 0, at + part < length ? FRAME_MORE : 0,
				   (const uint8_t *)text + at, part);
		}
	} else {
		dropped++;
	}
	free(text);
	json_decref(message);
}

void channel_begin(uint32_t number)
{
	queue_empty();
	uint8_t *to = queue_room(1);
	if (to) {
		*to = 0; /* ends what the former session may have begun */
		queue.end++;
	}
	session = number;
}

static void take_message(const char *text, size_t length, uint32_t number)
{
	json_t *message = json_loadb(text, length, 0, NULL);
	const char *type = json_text(message, "type");
	if (!type)
		dropped++;
	else if ((number == session && session) || !strcmp(type, "session"))
		owner->message(message, number, monotonic_ns());
	json_decref(message);
}

static void assembly_forget(void)
{
	free(assembly.bytes);
	memset(&assembly, 0, sizeof assembly);
}

static void assemble(const struct frame *frame)
{
	size_t length = assembly.length + frame->length;
	char *bytes = assembly.spoiled || length > MESSAGE_MOST ? NULL : realloc(assembly.bytes, length + 1);
	if (!bytes) {
		assembly.spoiled = true;
		return;
	}
	memcpy(bytes + assembly.length, frame->payload, frame->length);
	assembly.bytes = bytes;
	assembly.length = length;
}

static void take_frame(void *context, const struct frame *frame)
{
	(void)context;
	if (frame->kind == FRAME_DATA) {
		if (frame->session == session && session)
			owner->data(frame);
		return;
	}
	if (assembly.open && assembly.session != frame->session) {
		assembly_forget(); /* its end never came: the host began again */
		dropped++;
	}
	bool more = frame->flags & FRAME_MORE;
	if (!more && !assembly.open) {
		take_message((const char *)frame->payload, frame->length, frame->session);
		return;
	}
	assembly.open = true;
	assembly.session = frame->session;
	assemble(frame);
	if (more)
		return;
	if (assembly.spoiled)
		dropped++;
	else
		take_message(assembly.bytes, assembly.length, frame->session);
	assembly_forget();
}

static void readable(void)
{
	static uint8_t bytes[READ_AT_ONCE];
	if (!channel_roomy())
		return;
	ssize_t got = port_read(bytes, sizeof bytes);
	if (got > 0)
		frame_reader_feed(&reader, bytes, (size_t)got, take_frame, NULL);
}

void channel_flush(void)
{
	while (queue.end > queue.start) {
		ssize_t wrote = port_write(queue.bytes + queue.start, queue.end - queue.start);
		if (wrote <= 0)
			break;
		queue.start += (size_t)wrote;
	}
	if (queue.end == queue.start && queue.room > 64 << 10)
		queue_empty();
	if (queue.end == queue.start)
		queue.start = queue.end = 0;
	bool roomy = channel_roomy();
	if (!roomy && queue.end - queue.start < QUEUE_LOW) {
		queue.full = false;
		owner->drained();
		roomy = true;
	}
	port_want((roomy ? EPOLLIN : 0u) | (queue.end > queue.start ? EPOLLOUT : 0u));
}

void channel_open(const char *path, const struct channel_owner *to)
{
	owner = to;
	port_open(path, readable);
}
