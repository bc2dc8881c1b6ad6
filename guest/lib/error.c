/* What each thread's last failure was, and the checks that make most of them. */
#include "error.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char reason[1200];

const char *gc_error(void)
{
	return reason;
}

static void write_reason(const char *format, va_list values)
{
	vsnprintf(reason, sizeof reason, format, values);
	for (char *c = reason; *c; c++)
		if (iscntrl((unsigned char)*c))
			*c = ' '; /* one line, whatever an argument or the host puts in */
}

int say(int error, const char *format, ...)
{
	va_list values;
	va_start(values, format);
	write_reason(format, values);
	va_end(values);
	return error;
}

int refuse(const char *format, ...)
{
	va_list values;
	va_start(values, format);
	write_reason(format, values);
	va_end(values);
	errno = EINVAL;
	return -1;
}

int not_understood(struct answer *answer, const char *verb)
{
	free(answer ? answer->text : NULL);
	errno = say(EIO, "%s: the agent's answer is not understood", verb);
	return -1;
}

bool check_number(const char *name, const char *what, long long number, long long least, long long most)
{
	if (number >= least && number <= most)
		return true;
	refuse("%s: expected %s from %lld to %lld, got %lld", name, what, least, most, number);
	return false;
}

bool check_ticket(const char *name, const gc_uuid_t *ticket)
{
	static const char shape[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	for (size_t i = 0; i < sizeof shape; i++)
		if (shape[i] == 'x' ? !isxdigit((unsigned char)ticket->value[i]) : ticket->value[i] != shape[i]) {
			refuse("%s: expected ticket to be a ticket's UUID, got '%.36s'", name, ticket->value);
			return false;
		}
	return true;
}

bool check_place(const char *name, const char *what, const void *place)
{
	if (!place)
		refuse("%s: expected %s to be an address, got NULL", name, what);
	return place;
}

bool member_number(struct json object, const char *key, long long least, long long most, long long *number)
{
	struct json value;
	return value_member(object, key, &value) && value_integer(value, number) && *number >= least && *number <= most;
}

bool member_int(struct json object, const char *key, int *number)
{
	long long found;
	bool there = member_number(object, key, 0, INT_MAX, &found);
	*number = there ? (int)found : 0;
	return there;
}

bool member_text(struct json object, const char *key, char *to, size_t room)
{
	struct json value;
	return value_member(object, key, &value) && value_string(value, to, room);
}
