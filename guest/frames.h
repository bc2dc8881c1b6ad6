/* Frames of the guest's channel: COBS, a header of 12 bytes, a payload, a CRC-32 (docs/reference/protocol.md). */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	FRAME_VERSION = 1,
	FRAME_MESSAGE = 1, /* kinds */
	FRAME_DATA = 2,
	FRAME_END = 1, /* flags */
	FRAME_MORE = 2,
	FRAME_HEADER = 12,
	FRAME_PAYLOAD = 32768, /* at most */
	FRAME_RAW = FRAME_HEADER + FRAME_PAYLOAD + 4,
	FRAME_ENCODED = FRAME_RAW + FRAME_RAW / 254 + 2, /* with the ending zero */
	FRAME_HELD = 33000, /* bytes without a zero that a reader keeps */
};

struct frame {
	uint8_t kind, channel, flags;
	uint32_t session, stream;
	const uint8_t *payload; /* inside the reader's buffer: valid until the callback returns */
	size_t length;
};

struct frame_reader {
	uint64_t dropped;
	size_t held;
	bool skipping;
	uint8_t bytes[FRAME_HELD];
};

typedef void frame_taken(void *context, const struct frame *frame);

/* Writes the frame, with its ending zero, to out (FRAME_ENCODED bytes); returns how many bytes. */
size_t frame_encode(const struct frame *frame, uint8_t *out);

/* Calls taken for every whole sound frame in data and what was held before; counts the others. */
void frame_reader_feed(struct frame_reader *reader, const uint8_t *data, size_t length,
		       frame_taken *taken, void *context);

/* Forgets what it holds of an unfinished frame. */
void frame_reader_reset(struct frame_reader *reader);

#endif
