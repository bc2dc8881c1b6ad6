/* The table of streams: what opens them, what reaches them, and how much may flow. */
#include "streams.h"
#include "agent.h"
#include "channel.h"
#include "exec.h"
#include "files.h"

#include <errno.h>
#include <string.h>

static struct stream *streams;

static struct stream *find(uint32_t id)
{
	struct stream *stream = streams;
	while (stream && stream->id != id)
		stream = stream->next;
	return stream;
}

void stream_add(struct stream *stream, const struct stream_kind *kind, uint32_t id, int64_t initial_in)
{
	stream->kind = kind;
	stream->id = id;
	stream->in = initial_in;
	for (int channel = 0; channel < 3; channel++)
		stream->out[channel] = CREDIT_OUT;
	stream->next = streams;
	streams = stream;
}

void stream_remove(struct stream *stream)
{
	for (struct stream **at = &streams; *at; at = &(*at)->next)
		if (*at == stream) {
			*at = stream->next;
			return;
		}
}

json_t *stream_message(uint32_t id, const char *type)
{
	return json_pack("{s:s, s:I}", "type", type, "stream", (json_int_t)id);
}

void stream_send_failure(uint32_t id, int error, const char *message)
{
	json_t *exit = stream_message(id, "exit");
	json_object_set_new(exit, "errno", json_integer(error));
	json_object_set_new(exit, "message", json_string(message));
	channel_send(exit);
}

size_t stream_may_send(const struct stream *stream, int channel)
{
	int64_t credit = stream->out[channel];
	return !channel_roomy() || credit <= 0 ? 0 : credit < CHUNK ? (size_t)credit : CHUNK;
}

void stream_send(struct stream *stream, int channel, const uint8_t *data, size_t length)
{
	stream->out[channel] -= (int64_t)length;
	channel_send_data(stream->id, (uint8_t)channel, 0, data, length);
}

void stream_send_end(struct stream *stream, int channel)
{
	channel_send_data(stream->id, (uint8_t)channel, FRAME_END, NULL, 0);
}

void stream_give_credit(struct stream *stream, int64_t bytes)
{
	json_t *credit = stream_message(stream->id, "credit");
	json_object_set_new(credit, "channel", json_integer(0));
	json_object_set_new(credit, "bytes", json_integer(bytes));
	channel_send(credit);
	stream->in += bytes;
}

void stream_passed_on(struct stream *stream, size_t length)
{
	stream->in_owed += (int64_t)length;
	if (stream->in_owed < CREDIT_STEP)
		return;
	stream_give_credit(stream, stream->in_owed);
	stream->in_owed = 0;
}

void streams_data(const struct frame *frame)
{
	struct stream *stream = find(frame->stream);
	if (!stream || frame->channel != 0)
		return; /* sent before the host knew that it is over */
	stream->in -= (int64_t)frame->length;
	if (stream->in < 0) {
		stream_send_failure(stream->id, EPROTO, "more data than there was credit for");
		stream->kind->close(stream);
		return;
	}
	stream->kind->data(stream, frame->payload, frame->length, frame->flags & FRAME_END);
}

static void open_stream(const char *type, uint32_t id, const json_t *message)
{
	size_t open = 0;
	for (struct stream *stream = streams; stream; stream = stream->next)
		open++;
	if (find(id))
		stream_send_failure(id, EEXIST, "there is such a stream");
	else if (open >= STREAMS_MOST)
		stream_send_failure(id, EAGAIN, "too many streams are open in this guest");
	else if (!strcmp(type, "exec"))
		exec_open(id, message);
	else if (!strcmp(type, "push"))
		push_open(id, message);
	else
		pull_open(id, message);
}

void streams_message(const char *type, const json_t *message)
{
	uint32_t id = (uint32_t)json_number(message, "stream", 0);
	if (!strcmp(type, "exec") || !strcmp(type, "push") || !strcmp(type, "pull")) {
		open_stream(type, id, message);
		return;
	}
	struct stream *stream = find(id);
	if (!stream)
		return;
	if (!strcmp(type, "close")) {
		stream->kind->close(stream);
	} else if (!strcmp(type, "credit")) {
		int64_t channel = json_number(message, "channel", -1), bytes = json_number(message, "bytes", 0);
		if (channel < 0 || channel > 2 || bytes <= 0 || bytes > INT32_MAX ||
		    stream->out[channel] > INT32_MAX)
			return;
		stream->out[channel] += bytes;
		stream->kind->resume(stream);
	} else if (stream->kind->message) {
		stream->kind->message(stream, type, message);
	}
}

void streams_resume(void)
{
	for (struct stream *stream = streams, *next; stream; stream = next) {
		next = stream->next;
		stream->kind->resume(stream);
	}
}

bool streams_pump(void)
{
	bool more = false;
	for (struct stream *stream = streams, *next; stream; stream = next) {
		next = stream->next; /* pumping may end this one, no other */
		if (stream->kind->pump && stream->kind->pump(stream))
			more = true;
	}
	return more;
}

void streams_detach(enum heir heir)
{
	while (streams) {
		struct stream *stream = streams;
		stream_remove(stream);
		stream->kind->detach(stream, heir);
	}
}
