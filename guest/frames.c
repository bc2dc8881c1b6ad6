/* Encodes and decodes frames; never trusts a byte of what it is fed. */
#include "frames.h"

#include <string.h>

static uint32_t crc32_of(const uint8_t *data, size_t length)
{
	static uint32_t table[256];
	if (!table[1])
		for (uint32_t i = 0; i < 256; i++) {
			uint32_t c = i;
			for (int bit = 0; bit < 8; bit++)
				c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
			table[i] = c;
		}
	uint32_t crc = ~0u;
	for (size_t i = 0; i < length; i++)
		crc = table[(crc ^ data[i]) & 0xff] ^ (crc >> 8);
	return ~crc;
}

static void put32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get32(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static size_t cobs_encode(const uint8_t *in, size_t length, uint8_t *out)
{
	size_t code_at = 0, to = 1;
	uint8_t code = 1;
	for (size_t i = 0; i < length; i++) {
		if (in[i]) {
			out[to++] = in[i];
			code++;
		}
		if (!in[i] || (code == 0xff && i + 1 < length)) {
			out[code_at] = code;
			code_at = to++;
			code = 1;
		}
	}
	out[code_at] = code;
	return to;
}

/* In place, since what comes out is never longer than what went in; -1 if it is not COBS. */
static ptrdiff_t cobs_decode(uint8_t *bytes, size_t length)
{
	size_t from = 0, to = 0;
	while (from < length) {
		size_t run = bytes[from++];
		if (run == 0 || run - 1 > length - from)
			return -1;
		memmove(bytes + to, bytes + from, run - 1);
		from += run - 1;
		to += run - 1;
		if (run < 0xff && from < length)
			bytes[to++] = 0;
	}
	return (ptrdiff_t)to;
}

size_t frame_encode(const struct frame *frame, uint8_t *out)
{
	static uint8_t raw[FRAME_RAW];
	raw[0] = FRAME_VERSION;
	raw[1] = frame->kind;
	raw[2] = frame->channel;
	raw[3] = frame->flags;
	put32(raw + 4, frame->session);
	put32(raw + 8, frame->stream);
	if (frame->length)
		memcpy(raw + FRAME_HEADER, frame->payload, frame->length);
	size_t length = FRAME_HEADER + frame->length;
	put32(raw + length, crc32_of(raw, length));
	length = cobs_encode(raw, length + 4, out);
	out[length] = 0;
	return length + 1;
}

static bool decode(uint8_t *bytes, size_t length, struct frame *frame)
{
	ptrdiff_t decoded = cobs_decode(bytes, length);
	if (decoded < FRAME_HEADER + 4 || decoded > FRAME_RAW)
		return false;
	size_t end = (size_t)decoded - 4;
	if (bytes[0] != FRAME_VERSION || crc32_of(bytes, end) != get32(bytes + end))
		return false;
	*frame = (struct frame){
		.kind = bytes[1],
		.channel = bytes[2],
		.flags = bytes[3],
		.session = get32(bytes + 4),
		.stream = get32(bytes + 8),
		.payload = bytes + FRAME_HEADER,
		.length = end - FRAME_HEADER,
	};
	return (frame->kind == FRAME_MESSAGE || frame->kind == FRAME_DATA) && frame->channel <= 2;
}

void frame_reader_reset(struct frame_reader *reader)
{
	reader->held = 0;
	reader->skipping = false;
}

void frame_reader_feed(struct frame_reader *reader, const uint8_t *data, size_t length,
		       frame_taken *taken, void *context)
{
	while (length) {
		const uint8_t *zero = memchr(data, 0, length);
		size_t part = zero ? (size_t)(zero - data) : length;
		if (!reader->skipping && part > FRAME_HELD - reader->held) {
			reader->skipping = true;
			reader->dropped++;
			reader->held = 0;
		}
		if (!reader->skipping) {
			memcpy(reader->bytes + reader->held, data, part);
			reader->held += part;
		}
		if (!zero)
			return;
		struct frame frame;
		size_t held = reader->held;
		bool whole = !reader->skipping && held;
		frame_reader_reset(reader);
		if (whole && decode(reader->bytes, held, &frame))
			taken(context, &frame);
		else if (whole)
			reader->dropped++;
		data = zero + 1;
		length -= part + 1;
	}
}
