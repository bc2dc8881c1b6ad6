/* Base64, for binary members of messages. */
#include "agent.h"

#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

ptrdiff_t base64_decode(const char *text, uint8_t *out, size_t room)
{
	size_t length = strlen(text), to = 0;
	if (length % 4)
		return -1;
	size_t padding = length && text[length - 1] == '=' ? 1 + (text[length - 2] == '=') : 0;
	uint32_t bits = 0;
	for (size_t i = 0; i < length; i++) {
		const char *digit = i < length - padding ? strchr(digits, text[i]) : digits;
		if (!digit)
			return -1;
		bits = bits << 6 | (uint32_t)(digit - digits);
		if (i % 4 != 3)
			continue;
		size_t bytes = i + 1 == length ? 3 - padding : 3;
		if (bytes > room - to)
			return -1;
		for (size_t byte = 0; byte < bytes; byte++)
			out[to++] = (uint8_t)(bits >> (16 - 8 * byte));
		bits = 0;
	}
	return (ptrdiff_t)to;
}

size_t base64_encode(const uint8_t *data, size_t length, char *out)
{
	size_t to = 0;
	for (size_t i = 0; i < length; i += 3) {
		uint32_t bits = (uint32_t)data[i] << 16;
		if (i + 1 < length)
			bits |= (uint32_t)data[i + 1] << 8;
		if (i + 2 < length)
			bits |= data[i + 2];
		for (int digit = 0; digit < 4; digit++)
			out[to++] = digits[bits >> (18 - 6 * digit) & 63];
		if (i + 1 >= length)
			out[to - 2] = '=';
		if (i + 2 >= length)
			out[to - 1] = '=';
	}
	out[to] = 0;
	return to;
}
