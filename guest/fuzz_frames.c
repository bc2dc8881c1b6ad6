/* Feeds the frame reader with inputs from standard input: 4 bytes of length, little-endian, 2 of the piece's
 * size to feed at a time, the bytes. For each prints the frames taken, one a line, and "dropped N". */
#include "frames.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_frame(void *context, const struct frame *frame)
{
	static uint8_t encoded[FRAME_ENCODED];
	(void)context;
	printf("%u %u %u %u %u ", frame->kind, frame->channel, frame->flags, frame->session, frame->stream);
	for (size_t i = 0; i < frame->length; i++)
		printf("%02x", frame->payload[i]);
	size_t length = frame_encode(frame, encoded); /* what was taken can be sent, and has one zero: its last */
	if (memchr(encoded, 0, length) != encoded + length - 1)
		abort();
	putchar('\n');
}

int main(void)
{
	static struct frame_reader reader;
	uint8_t head[6];
	while (fread(head, sizeof head, 1, stdin) == 1) {
		size_t length = head[0] | head[1] << 8 | head[2] << 16 | (size_t)head[3] << 24;
		size_t piece = head[4] | head[5] << 8;
		memset(&reader, 0, sizeof reader);
		uint8_t *bytes = malloc(length ? length : 1); /* exact, so that the sanitizer sees a byte too far */
		if (!bytes || !piece || (length && fread(bytes, length, 1, stdin) != 1))
			return 2;
		for (size_t at = 0; at < length; at += piece)
			frame_reader_feed(&reader, bytes + at, length - at < piece ? length - at : piece, print_frame,
					  NULL);
		printf("dropped %llu\n", (unsigned long long)reader.dropped);
		free(bytes);
	}
	return 0;
}
