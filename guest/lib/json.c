/* A reader of the agent's answers. It is lenient about what it skips, and strict about what it gives. */
#include "json.h"

#include <limits.h>
#include <stdint.h>
#include <string.h>

static const char *skip_space(const char *at, const char *end)
{
	while (at < end && strchr(" \t\r\n", *at) && *at)
		at++;
	return at;
}

/* Behind the quote that ends a string; at is behind the one that begins it. NULL: none does. */
static const char *string_end(const char *at, const char *end)
{
	for (; at < end; at++)
		if (*at == '"')
			return at + 1;
		else if (*at == '\\' && ++at == end)
			break;
	return NULL;
}

/* Behind a value; NULL if it has no end. */
static const char *value_end(const char *at, const char *end)
{
	int depth = 0;
	while (at < end) {
		char c = *at;
		if (c == '"') {
			if (!(at = string_end(at + 1, end)))
				return NULL;
		} else if (c == '{' || c == '[') {
			depth++;
			at++;
		} else if (c == '}' || c == ']') {
			if (!depth--)
				return at; /* of whoever holds this value */
			at++;
		} else if (c == ',' && !depth) {
			return at;
		} else {
			at++;
			continue; /* a number or a word goes on */
		}
		if (!depth)
			return at;
	}
	return depth ? NULL : at;
}

/* One value off the front of what is left in an object or array; false where there is none. */
static bool take(struct json *rest, struct json *value)
{
	const char *at = skip_space(rest->at, rest->end), *end = value_end(at, rest->end);
	if (!end || end == at)
		return false;
	*value = (struct json){at, end};
	rest->at = skip_space(end, rest->end);
	return true;
}

static bool inside(struct json value, char bracket, struct json *inner)
{
	const char *at = skip_space(value.at, value.end);
	if (at == value.end || *at != bracket)
		return false;
	*inner = (struct json){at + 1, value.end};
	return true;
}

/* True if it was there; it is gone then. */
static bool take_mark(struct json *rest, char mark)
{
	rest->at = skip_space(rest->at, rest->end);
	if (rest->at == rest->end || *rest->at != mark)
		return false;
	rest->at++;
	return true;
}

bool value_member(struct json object, const char *key, struct json *value)
{
	struct json rest, name;
	size_t length = strlen(key);
	if (!inside(object, '{', &rest))
		return false;
	do {
		const char *end;
		if (!take_mark(&rest, '"') || !(end = string_end(rest.at, rest.end)))
			return false;
		name = (struct json){rest.at, end - 1};
		rest.at = end;
		if (!take_mark(&rest, ':') || !take(&rest, value))
			return false;
		if ((size_t)(name.end - name.at) == length && !memcmp(name.at, key, length))
			return true;
	} while (take_mark(&rest, ','));
	return false;
}

bool value_items(struct json array, struct json *items)
{
	return inside(array, '[', items);
}

bool value_next(struct json *items, struct json *item)
{
	if (!take(items, item))
		return false;
	take_mark(items, ',');
	return true;
}

bool value_integer(struct json value, long long *number)
{
	const char *at = value.at;
	bool negative = at < value.end && *at == '-';
	unsigned long long sum = 0;
	at += negative;
	for (const char *digit = at; digit < value.end && *digit > ' '; digit++) {
		if (*digit < '0' || *digit > '9' || sum > (LLONG_MAX - 9) / 10)
			return false;
		sum = sum * 10 + (unsigned)(*digit - '0');
	}
	*number = negative ? -(long long)sum : (long long)sum;
	return at < value.end && *at >= '0';
}

static bool hex(const char *at, const char *end, uint32_t *code)
{
	static const char digits[] = "0123456789abcdef";
	*code = 0;
	if (end - at < 4)
		return false;
	for (int i = 0; i < 4; i++) {
		const char *digit = at[i] ? strchr(digits, at[i] | 0x20) : NULL;
		if (!digit)
			return false;
		*code = *code << 4 | (uint32_t)(digit - digits);
	}
	return true;
}

static size_t utf8(uint32_t code, char *to)
{
	if (code < 0x80) {
		to[0] = (char)code;
		return 1;
	}
	size_t more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
	static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
	to[0] = (char)(first[more] | code >> 6 * more);
	for (size_t i = 1; i <= more; i++)
		to[i] = (char)(0x80 | (code >> 6 * (more - i) & 0x3f));
	return more + 1;
}

/* What stands behind a backslash, as UTF-8; at is moved behind it. 0: nothing known. */
static size_t escaped(const char **at, const char *end, char *to)
{
	static const char from[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
	const char *known = **at ? strchr(from, **at) : NULL;
	uint32_t code, low;
	if (known) {
		++*at;
		to[0] = meant[known - from];
		return 1;
	}
	if (**at != 'u' || !hex(*at + 1, end, &code))
		return 0;
	*at += 5;
	if (code >= 0xd800 && code < 0xe000) { /* half a character, and the other half follows */
		if (code >= 0xdc00 || end - *at < 6 || (*at)[0] != '\\' || (*at)[1] != 'u' ||
		    !hex(*at + 2, end, &low) || low < 0xdc00 || low >= 0xe000)
			return 0;
		code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
		*at += 6;
	}
	return code ? utf8(code, to) : 0; /* a C string holds no zero */
}

bool value_string(struct json value, char *to, size_t room)
{
	char piece[4];
	const char *at = value.at + 1, *end = value.end - 1;
	if (value.end - value.at < 2 || *value.at != '"' || *end != '"')
		return false;
	for (size_t length; at < end; to += length, room -= length) {
		if (*at == '\\') {
			at++;
			length = at < end ? escaped(&at, end, piece) : 0;
		} else {
			piece[0] = *at++;
			length = 1;
		}
		if (!length || length >= room)
			return false;
		memcpy(to, piece, length);
	}
	if (!room)
		return false;
	*to = 0;
	return true;
}
