/* Streams: commands and files that the host opened, by the number it gave them, with their credits. */
#ifndef STREAMS_H
#define STREAMS_H

#include "frames.h"

#include <jansson.h>

enum {
	STREAMS_MOST = 64,	 /* open at once */
	CREDIT_OUT = 256 << 10,	 /* what may be sent to the host at first, a channel */
	CREDIT_IN = 32 << 10,	 /* what the host may send at first: held here if a command does not read */
	CREDIT_STEP = 16 << 10,	 /* more is given in steps of at least this */
	CHUNK = 16 << 10,	 /* of data in one frame */
};

struct stream;

/* Where a stream goes when the session that opened it is over. */
enum heir { HEIR_NOBODY, HEIR_NEXT_SESSION };

struct stream_kind {
	void (*data)(struct stream *stream, const uint8_t *data, size_t length, bool end);
	void (*message)(struct stream *stream, const char *type, const json_t *message);
	void (*resume)(struct stream *stream); /* there is credit or room again */
	bool (*pump)(struct stream *stream);   /* sends a piece; true if there is more; or NULL */
	void (*detach)(struct stream *stream, enum heir heir);
	void (*close)(struct stream *stream);  /* the host's end is gone */
};

struct stream {
	const struct stream_kind *kind;
	struct stream *next;
	uint32_t id;
	int64_t out[3];	 /* credit to send, by channel */
	int64_t in;	 /* what the host may still send */
	int64_t in_owed; /* passed on, and not yet given back as credit */
};

/* Files the stream under its number; the host may send initial_in bytes. */
void stream_add(struct stream *stream, const struct stream_kind *kind, uint32_t id, int64_t initial_in);
void stream_remove(struct stream *stream);

/* How much may be sent now on a channel, at most CHUNK: 0 without credit or room in the queue. */
size_t stream_may_send(const struct stream *stream, int channel);
void stream_send(struct stream *stream, int channel, const uint8_t *data, size_t length);
void stream_send_end(struct stream *stream, int channel);
/* So many bytes of the host's were passed on. */
void stream_passed_on(struct stream *stream, size_t length);
void stream_give_credit(struct stream *stream, int64_t bytes);

/* {"type", "stream"}, to which the caller adds. */
json_t *stream_message(uint32_t id, const char *type);
/* Ends a stream that never started or broke. */
void stream_send_failure(uint32_t id, int error, const char *message);

void streams_data(const struct frame *frame);
void streams_message(const char *type, const json_t *message);
void streams_resume(void);
bool streams_pump(void);
void streams_detach(enum heir heir);

#endif
